//! Safetensors files, written and read one tensor at a time.
//!
//! Maps nothing and shares no code with the offline part, whose work the demo checks. Index files
//! of sharded checkpoints are not read.

use super::Stop;
use crate::{bundle, cli::failure::Failure};
use safetensors::{Dtype, tensor::Metadata};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// The largest header that the safetensors crate reads.
const MAX_HEADER: u64 = 100_000_000;

/// What a tensor is, without its content.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

impl Spec {
    pub(super) fn new(name: impl Into<String>, dtype: Dtype, shape: &[usize]) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_vec() }
    }

    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn bytes(&self) -> usize {
        self.elements() * self.dtype.bitsize() / 8
    }
}

/// Writes a file; `content` gives each tensor's bytes when it is their turn. The data is on disk
/// afterwards, so that no late write disturbs what is measured later.
pub(super) fn write(
    path: &Path,
    specs: &[Spec],
    stop: &Stop,
    mut content: impl FnMut(&Spec) -> Vec<u8>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let path = path.display();
        Failure::failed(format!("cannot write {path}: {error}; TMPDIR says where else to write"))
    };
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(&header(specs)?).map_err(failed)?;
    for spec in specs {
        stop.check()?;
        file.write_all(&content(spec)).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

fn header(specs: &[Spec]) -> Result<Vec<u8>, Failure> {
    let tensors = specs.iter().map(|spec| (spec.name.clone(), spec.dtype, spec.shape.clone()));
    let infos =
        bundle::lay_out(tensors).ok_or_else(|| Failure::failed("the model is too large"))?;
    bundle::header(None, infos).map_err(Failure::failed)
}

/// A file that can be read.
#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    file: File,
    data: u64,
    /// In the order of the file.
    specs: Vec<(Spec, u64)>,
}

impl TensorFile {
    /// Opens a file and checks its header. What is wrong with the file is its user's to mend.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        use io::ErrorKind::{InvalidData, NotFound, PermissionDenied, UnexpectedEof};
        Self::try_open(path).map_err(|error| {
            let path = path.display();
            let text = format!("{path} cannot be read as a safetensors file: {error}");
            match error.kind() {
                InvalidData | NotFound | PermissionDenied | UnexpectedEof => Failure::usage(text),
                _ => Failure::failed(text),
            }
        })
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
        // Before it is opened: opening a pipe would wait for its other end.
        if !fs::metadata(path)?.is_file() {
            return Err(invalid("not a regular file"));
        }
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut size = [0; 8];
        file.read_exact_at(&mut size, 0)?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER || size + 8 > len {
            return Err(invalid("its first 8 bytes are not the size of a header"));
        }
        let mut json = vec![0; size as usize];
        file.read_exact_at(&mut json, 8)?;
        let metadata: Metadata = serde_json::from_slice(&json)?;
        let data = size + 8;
        if len - data != metadata.data_len() as u64 {
            return Err(invalid("its size is not the one that its header tells"));
        }
        let spec = |name: String| {
            let info = metadata.info(&name)?;
            Some((Spec::new(name, info.dtype, &info.shape), info.data_offsets.0 as u64))
        };
        let specs = metadata.offset_keys().into_iter().filter_map(spec).collect();
        Ok(Self { path: path.to_owned(), file, data, specs })
    }

    /// All tensors, in the order of the file.
    pub(super) fn specs(&self) -> impl Iterator<Item = &Spec> {
        self.specs.iter().map(|(spec, _)| spec)
    }

    /// Bytes of all tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.specs().map(|spec| spec.bytes() as u64).sum()
    }

    /// Reads the tensor of this name.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("cannot read `{name}` of {}: {error}", self.path.display()))
        };
        let found = self.specs.iter().find(|(spec, _)| spec.name == name);
        let (spec, start) = found.ok_or_else(|| failed(&"there is no such tensor"))?;
        let mut bytes = vec![0; spec.bytes()];
        let read = self.file.read_exact_at(&mut bytes, self.data + start);
        read.map_err(|error| failed(&error))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_here_and_by_the_safetensors_crate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let specs = [Spec::new("b", Dtype::F32, &[2, 3]), Spec::new("a", Dtype::BF16, &[5])];
        let content = |spec: &Spec| vec![spec.name.as_bytes()[0]; spec.bytes()];
        write(&path, &specs, &Stop::never(), content).unwrap();

        let file = TensorFile::open(&path).unwrap();
        let names: Vec<_> = file.specs().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(file.bytes(), 34);
        assert_eq!(file.read("a").unwrap(), [b'a'; 10]);
        assert!(file.read("c").is_err());

        let bytes = fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("b").unwrap().data(), [b'b'; 24]);
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        assert!(TensorFile::open(&path).is_err(), "missing");
        assert!(TensorFile::open(folder.path()).is_err(), "a folder");
        write(&path, &[Spec::new("a", Dtype::F32, &[4])], &Stop::never(), |_| vec![0; 16]).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(TensorFile::open(&path).is_err(), "cut off at {len}");
        }
        fs::write(&path, [u8::MAX; 64]).unwrap();
        assert!(TensorFile::open(&path).is_err(), "a header larger than the file");
    }
}
