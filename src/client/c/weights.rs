//! Weights under a lease, for C: base tensors and blocks in place, and what is computed of them.

use super::{
    Handle,
    args::{Out, elements, room, shared, zeros},
    status::{Failure, Status, run},
    tensor::{Found, at},
};
use crate::client::{Base, Block, Lease, Sparse};
use std::{
    ffi::{c_float, c_void},
    mem::MaybeUninit,
};

/// A block of a tensor, in place.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PlacedBlock {
    /// Its row in the grid.
    pub row: usize,
    /// Its column in the grid.
    pub col: usize,
    /// Its block_bytes bytes: block_rows x block_cols elements, row by row, at an address that is a
    /// multiple of 4096. Elements beyond the tensor's edge are zero. Holds until the lease is released.
    pub bytes: *const c_void,
}

fn base<'l>(lease: &'l Lease<'_>, tensor: usize) -> Result<Base<'l>, Failure> {
    match at(lease.bundle(), tensor)? {
        Found::Base(tensor) => Ok(lease.base(tensor)),
        Found::Sparse(_) => Err(Failure::argument(format!("tensor {tensor} is cut into blocks"))),
    }
}

fn sparse<'l>(lease: &'l Lease<'_>, tensor: usize) -> Result<Sparse<'l>, Failure> {
    match at(lease.bundle(), tensor)? {
        Found::Sparse(tensor) => Ok(lease.sparse(tensor)),
        Found::Base(_) => Err(Failure::argument(format!("tensor {tensor} is not cut into blocks"))),
    }
}

/// Gives a base tensor in place, as its elements lie: row by row. It is the same for all tasks.
///
/// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the tensor is cut into
/// blocks, or there is none at this position.
///
/// # Safety
///
/// `attachment` is one or NULL, `data` and `bytes` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_base(
    attachment: *const Handle,
    tensor: usize,
    data: *mut *const c_void,
    bytes: *mut usize,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        // SAFETY: it can be written, as the caller promises.
        let data = unsafe { Out::new(data, "data") }?;
        // SAFETY: likewise.
        let bytes = unsafe { Out::new(bytes, "bytes") }?;
        let lease = handle.holder.lease()?;
        let base = base(&lease, tensor)?;
        data.write(base.bytes().as_ptr().cast());
        bytes.write(base.bytes().len());
        Ok(())
    })
}

/// Gives the block at a place of a tensor's grid, as sm_block has it; NULL if the task has none there,
/// so that the weights are zero. Takes a few memory accesses, whatever the number of blocks.
///
/// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the tensor is of the
/// base, or there is no such tensor or place. SM_STATUS_DATA_LOSS: the daemon's table does not say
/// where the block is; its weights are not zero but unknown.
///
/// # Safety
///
/// `attachment` is one or NULL, `bytes` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_block_at(
    attachment: *const Handle,
    tensor: usize,
    row: usize,
    col: usize,
    bytes: *mut *const c_void,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        // SAFETY: it can be written, as the caller promises.
        let bytes = unsafe { Out::new(bytes, "bytes") }?;
        let lease = handle.holder.lease()?;
        let sparse = sparse(&lease, tensor)?;
        let [rows, cols] = sparse.tiling().grid();
        if row >= rows || col >= cols {
            let text = format!("there is no place ({row}, {col}) in a grid of {rows} x {cols}");
            return Err(Failure::argument(text));
        }
        let block = sparse.block(row, col)?;
        bytes.write(block.map_or(std::ptr::null(), |block| block.bytes.as_ptr().cast()));
        Ok(())
    })
}

/// Gives all blocks that the task has of a tensor, row by row of the grid, and tells in `count` how
/// many these are. Only the first `capacity` of them are written to `blocks`, which may be NULL if
/// `capacity` is 0; grid_rows x grid_cols are always enough.
///
/// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the tensor is of the
/// base, or there is none at this position. SM_STATUS_DATA_LOSS: as for sm_block_at; some of `blocks`
/// may be written then.
///
/// # Safety
///
/// `attachment` is one or NULL, `blocks` has room for `capacity` blocks, `count` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_blocks(
    attachment: *const Handle,
    tensor: usize,
    blocks: *mut PlacedBlock,
    capacity: usize,
    count: *mut usize,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        // SAFETY: it can be written, as the caller promises.
        let count = unsafe { Out::new(count, "count") }?;
        // SAFETY: there is room for as many, as the caller promises.
        let places = unsafe { room(blocks, capacity, "blocks") }?;
        let lease = handle.holder.lease()?;
        count.write(list(sparse(&lease, tensor)?, places)?);
        Ok(())
    })
}

/// Writes as many blocks as there are places for, and tells how many there are.
fn list(sparse: Sparse<'_>, places: &mut [MaybeUninit<PlacedBlock>]) -> Result<usize, Failure> {
    let mut places = places.iter_mut();
    let mut count = 0;
    for block in sparse.blocks() {
        let Block { row, col, bytes } = block?;
        if let Some(place) = places.next() {
            place.write(PlacedBlock { row, col, bytes: bytes.as_ptr().cast() });
        }
        count += 1;
    }
    Ok(count)
}

/// Copies a whole tensor to `out`, row by row: one of the base as it is, one that is cut into blocks
/// as the task has it, with zeros where it has no block. `bytes` is the size of `out`, which must be
/// that of the tensor.
///
/// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the size is another, or
/// there is no tensor at this position. SM_STATUS_DATA_LOSS: as for sm_block_at; `out` holds nothing of
/// use then.
///
/// # Safety
///
/// `attachment` is one or NULL, `out` has room for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_to_dense(
    attachment: *const Handle,
    tensor: usize,
    out: *mut c_void,
    bytes: usize,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        let lease = handle.holder.lease()?;
        let needed = handle.info(tensor)?.bytes;
        if bytes != needed {
            let text = format!("out has {bytes} bytes, but the tensor has {needed}");
            return Err(Failure::argument(text));
        }
        // SAFETY: there is room for as many bytes, as the caller promises.
        let out = unsafe { zeros(out.cast::<u8>(), bytes, "out") }?;
        match at(lease.bundle(), tensor)? {
            Found::Base(base) => out.copy_from_slice(lease.base(base).bytes()),
            Found::Sparse(tensor) => lease.sparse(tensor).paste(out)?,
        }
        Ok(())
    })
}

/// Computes y = x . W^T of a tensor W that is cut into blocks, in place, in 32-bit floats: what a
/// linear layer does. W is shape[0] (out) x shape[1] (in); `x` is batch x shape[1] and `y` batch x
/// shape[0] floats, row by row. All of `y` is written; it must not overlap `x`. Both may be NULL if
/// `batch` is 0, where there is nothing to compute. One thread; several may do so at a time.
///
/// Not for a thread that must not allocate: each call takes from the heap a copy of `x`, a list of the
/// blocks in one row of the grid and some KiB, and for some shapes of blocks the size of one more.
///
/// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the tensor is of the
/// base, or there is none at this position, or `y` overlaps `x`. SM_STATUS_UNIMPLEMENTED: its elements
/// are not F32, F16 or BF16. SM_STATUS_DATA_LOSS: as for sm_block_at. If it fails, `y` holds nothing of
/// use.
///
/// # Safety
///
/// `attachment` is one or NULL, `x` has batch x shape[1] floats, `y` has room for batch x shape[0].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_product(
    attachment: *const Handle,
    tensor: usize,
    x: *const c_float,
    batch: usize,
    y: *mut c_float,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        let lease = handle.holder.lease()?;
        let sparse = sparse(&lease, tensor)?;
        let [rows, cols] = sparse.tiling().shape();
        let (inputs, outputs) = (batch.saturating_mul(cols), batch.saturating_mul(rows));
        check_apart(x, inputs, y, outputs)?;
        // SAFETY: there are as many floats, as the caller promises.
        let x = unsafe { elements(x, inputs, "x") }?;
        // SAFETY: there is room for as many, which is nobody else's, as the caller promises, and not
        // `x` (`check_apart`).
        let y = unsafe { zeros(y, outputs, "y") }?;
        Ok(sparse.product(x, batch, y)?)
    })
}

fn check_apart(x: *const f32, inputs: usize, y: *const f32, outputs: usize) -> Result<(), Failure> {
    let end = |start: *const f32, len: usize| start.addr().saturating_add(len.saturating_mul(4));
    if x.addr() < end(y, outputs) && y.addr() < end(x, inputs) {
        return Err(Failure::argument("y overlaps x".into()));
    }
    Ok(())
}
