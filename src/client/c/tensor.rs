//! What tensors there are, for C: names, types, shapes and grids. They belong to the model, are the
//! same for all tasks, and need no lease.

use super::{
    Handle,
    args::{Out, shared, text},
    c_string,
    status::{Failure, Status, run, run_or},
};
use crate::bundle::{BaseTensor, Bundle, PrunedTensor};
use std::ffi::{CString, c_char};

/// How a tensor is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Kind {
    /// As it is, for every task: see sm_base.
    Base = 0,
    /// Cut into blocks, of which each task has some: see sm_block_at and sm_blocks. Where the task
    /// has no block, the weights are zero.
    Sparse = 1,
}

/// The type of an element; all are little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Dtype {
    /// One that this library has no number for.
    Other = 0,
    /// One byte, 0 or 1.
    Bool = 1,
    /// Unsigned, 8 bits.
    U8 = 2,
    /// Signed, 8 bits.
    I8 = 3,
    /// Float of 8 bits, 5 of them exponent.
    F8E5m2 = 4,
    /// Float of 8 bits, 4 of them exponent.
    F8E4m3 = 5,
    /// Signed, 16 bits.
    I16 = 6,
    /// Unsigned, 16 bits.
    U16 = 7,
    /// IEEE 754 half precision.
    F16 = 8,
    /// The upper half of an F32.
    Bf16 = 9,
    /// Signed, 32 bits.
    I32 = 10,
    /// Unsigned, 32 bits.
    U32 = 11,
    /// IEEE 754 single precision.
    F32 = 12,
    /// IEEE 754 double precision.
    F64 = 13,
    /// Signed, 64 bits.
    I64 = 14,
    /// Unsigned, 64 bits.
    U64 = 15,
}

/// What is known of a tensor. Its grid has grid_rows x grid_cols places, and the block at row r and
/// column c of the grid begins at the element (r * block_rows, c * block_cols) of the tensor. All
/// fields on grid and blocks are 0 for a tensor of the base.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TensorInfo {
    /// Its name. Holds until sm_detach.
    pub name: *const c_char,
    /// Its position, by which functions are told the tensor.
    pub index: usize,
    /// How it is kept.
    pub kind: Kind,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Number of dimensions.
    pub rank: usize,
    /// Elements in each dimension, `rank` of them. Holds until sm_detach.
    pub shape: *const usize,
    /// Bytes of the whole tensor, zeros included: what sm_to_dense writes.
    pub bytes: usize,
    /// Rows of the grid.
    pub grid_rows: usize,
    /// Columns of the grid.
    pub grid_cols: usize,
    /// Rows of a block, in elements.
    pub block_rows: usize,
    /// Columns of a block, in elements.
    pub block_cols: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
}

/// Name and shape in the form that C reads, which must have a place to be.
#[derive(Debug)]
pub(super) struct Described {
    name: CString,
    shape: Vec<usize>,
}

impl Described {
    /// All tensors: first those of the base.
    pub(super) fn all(bundle: &Bundle) -> Vec<Self> {
        let base = bundle.base().tensors.iter().map(|tensor| (&*tensor.name, &*tensor.shape));
        let base = base.map(|(name, shape)| Self { name: c_string(name), shape: shape.to_vec() });
        let pruned = bundle.tensors().iter().map(|tensor| Self {
            name: c_string(tensor.name()),
            shape: tensor.tiling().shape().to_vec(),
        });
        base.chain(pruned).collect()
    }
}

impl Handle {
    /// What is known of the tensor at a position.
    pub(super) fn info(&self, index: usize) -> Result<TensorInfo, Failure> {
        let tensor = at(self.bundle(), index)?;
        let Described { name, shape } = &self.tensors[index];
        let base = TensorInfo {
            name: name.as_ptr(),
            index,
            kind: Kind::Base,
            dtype: Dtype::Other,
            rank: shape.len(),
            shape: shape.as_ptr(),
            bytes: 0,
            grid_rows: 0,
            grid_cols: 0,
            block_rows: 0,
            block_cols: 0,
            block_bytes: 0,
        };
        Ok(match tensor {
            Found::Base(tensor) => TensorInfo {
                dtype: tensor.dtype.into(),
                bytes: (tensor.range.end - tensor.range.start) as usize,
                ..base
            },
            Found::Sparse(tensor) => cut(tensor, base),
        })
    }
}

fn cut(tensor: &PrunedTensor, base: TensorInfo) -> TensorInfo {
    let tiling = tensor.tiling();
    let [grid_rows, grid_cols] = tiling.grid();
    TensorInfo {
        kind: Kind::Sparse,
        dtype: tiling.block().dtype().into(),
        bytes: tiling.dense_len(),
        grid_rows,
        grid_cols,
        block_rows: tiling.block().rows(),
        block_cols: tiling.block().cols(),
        block_bytes: tiling.block().len(),
        ..base
    }
}

/// A tensor of the bundle.
#[derive(Clone, Copy)]
pub(super) enum Found<'b> {
    Base(&'b BaseTensor),
    Sparse(&'b PrunedTensor),
}

/// The tensor at a position.
pub(super) fn at(bundle: &Bundle, index: usize) -> Result<Found<'_>, Failure> {
    let (base, sparse) = (&bundle.base().tensors, bundle.tensors());
    let none = || Failure::argument(format!("there is no tensor {index}"));
    match index.checked_sub(base.len()) {
        None => Ok(Found::Base(&base[index])),
        Some(rest) => sparse.get(rest).map(Found::Sparse).ok_or_else(none),
    }
}

/// The position of a tensor.
fn find(bundle: &Bundle, name: &str) -> Option<usize> {
    let base = bundle.base().tensors.iter().map(|tensor| &*tensor.name);
    base.chain(bundle.tensors().iter().map(PrunedTensor::name)).position(|other| other == name)
}

impl From<safetensors::Dtype> for Dtype {
    fn from(dtype: safetensors::Dtype) -> Self {
        use safetensors::Dtype as D;
        match dtype {
            D::BOOL => Self::Bool,
            D::U8 => Self::U8,
            D::I8 => Self::I8,
            D::F8_E5M2 => Self::F8E5m2,
            D::F8_E4M3 => Self::F8E4m3,
            D::I16 => Self::I16,
            D::U16 => Self::U16,
            D::F16 => Self::F16,
            D::BF16 => Self::Bf16,
            D::I32 => Self::I32,
            D::U32 => Self::U32,
            D::F32 => Self::F32,
            D::F64 => Self::F64,
            D::I64 => Self::I64,
            D::U64 => Self::U64,
            _ => Self::Other,
        }
    }
}

/// How many tensors the model has; 0 if `attachment` is NULL.
///
/// # Safety
///
/// `attachment` is one or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_tensor_count(attachment: *const Handle) -> usize {
    run_or(0, || {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        Ok(handle.tensors.len())
    })
}

/// Describes the tensor at a position, from 0 on. Needs no lease.
///
/// SM_STATUS_INVALID_ARGUMENT: there is no such position.
///
/// # Safety
///
/// `attachment` is one or NULL, `info` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_tensor_at(
    attachment: *const Handle,
    index: usize,
    info: *mut TensorInfo,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        // SAFETY: it can be written, as the caller promises.
        let out = unsafe { Out::new(info, "info") }?;
        out.write(handle.info(index)?);
        Ok(())
    })
}

/// Describes the tensor of a name; looks through all of them, so keep what is found. Needs no lease.
///
/// SM_STATUS_NOT_FOUND: there is none.
///
/// # Safety
///
/// `attachment` is one or NULL, `name` is a string or NULL, `info` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_find_tensor(
    attachment: *const Handle,
    name: *const c_char,
    info: *mut TensorInfo,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        // SAFETY: it is a string or NULL, as the caller promises.
        let name = unsafe { text(name, "name") }?;
        // SAFETY: it can be written, as the caller promises.
        let out = unsafe { Out::new(info, "info") }?;
        let index = find(handle.bundle(), name);
        let index =
            index.ok_or_else(|| Failure::not_found(format!("no tensor is named {name}")))?;
        out.write(handle.info(index)?);
        Ok(())
    })
}
