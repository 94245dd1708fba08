//! The functions for C, called from Rust with pointers as C has them, against a daemon. What a C++
//! compiler makes of the header is `examples/cpp`'s matter.

#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(unsafe_code, reason = "the interface under test is one of pointers")]
#![allow(clippy::undocumented_unsafe_blocks, reason = "each call is one that C may make")]
#![allow(clippy::multiple_unsafe_ops_per_block, reason = "each call is one that C may make")]

mod common;

use common::{
    Fixture,
    calls::{bundle, runtime, switch, whole},
    daemon::Daemon,
};
use std::{
    ffi::{CStr, CString, c_void},
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    ptr, slice,
    time::{Duration, Instant},
};
use synchromesh::{bundle::Bundle, client::c::*};

/// An attachment as C has it.
struct Attached(*mut Handle);

impl Attached {
    fn to(daemon: &Daemon) -> Self {
        let path = CString::new(daemon.attach().as_os_str().as_bytes()).unwrap();
        let mut handle = ptr::null_mut();
        let status = unsafe { sm_attach(path.as_ptr(), ptr::null(), ptr::null(), &raw mut handle) };
        assert_eq!(status, Status::Ok, "{}", last_error());
        Self(handle)
    }

    fn lease(&self) -> Result<u64, Status> {
        let mut generation = 0;
        match unsafe { sm_lease(self.0, &raw mut generation) } {
            Status::Ok => Ok(generation),
            failure => Err(failure),
        }
    }

    fn lease_of(&self, generation: u64) -> Status {
        unsafe { sm_lease_of(self.0, generation) }
    }

    fn release(&self) -> Status {
        unsafe { sm_release(self.0) }
    }

    fn check(&self) -> Status {
        unsafe { sm_check(self.0) }
    }

    fn task(&self) -> String {
        unsafe { CStr::from_ptr(sm_task(self.0)) }.to_str().unwrap().to_owned()
    }

    fn tensors(&self) -> Vec<TensorInfo> {
        let at = |index| {
            let mut info = MaybeUninit::uninit();
            assert_eq!(unsafe { sm_tensor_at(self.0, index, info.as_mut_ptr()) }, Status::Ok);
            unsafe { info.assume_init() }
        };
        (0..unsafe { sm_tensor_count(self.0) }).map(at).collect()
    }

    fn dense(&self, tensor: &TensorInfo) -> Vec<u8> {
        let mut bytes = vec![0xee_u8; tensor.bytes];
        let out: *mut c_void = bytes.as_mut_ptr().cast();
        assert_eq!(unsafe { sm_to_dense(self.0, tensor.index, out, bytes.len()) }, Status::Ok);
        bytes
    }

    fn block(&self, tensor: &TensorInfo, row: usize, col: usize) -> Option<&[u8]> {
        let mut bytes = ptr::null();
        let status = unsafe { sm_block_at(self.0, tensor.index, row, col, &raw mut bytes) };
        assert_eq!(status, Status::Ok);
        let bytes: *const u8 = bytes.cast();
        (!bytes.is_null()).then(|| unsafe { slice::from_raw_parts(bytes, tensor.block_bytes) })
    }

    fn blocks(&self, tensor: &TensorInfo) -> Vec<PlacedBlock> {
        let mut blocks = Vec::with_capacity(tensor.grid_rows * tensor.grid_cols);
        let (room, mut count) = (blocks.capacity(), 0);
        let (to, count_to) = (blocks.as_mut_ptr(), &raw mut count);
        assert_eq!(unsafe { sm_blocks(self.0, tensor.index, to, room, count_to) }, Status::Ok);
        unsafe { blocks.set_len(count) };
        blocks
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        unsafe { sm_detach(self.0) };
    }
}

fn last_error() -> String {
    unsafe { CStr::from_ptr(sm_last_error()) }.to_str().unwrap().to_owned()
}

fn name(tensor: &TensorInfo) -> &str {
    unsafe { CStr::from_ptr(tensor.name) }.to_str().unwrap()
}

fn shape(tensor: &TensorInfo) -> &[usize] {
    unsafe { slice::from_raw_parts(tensor.shape, tensor.rank) }
}

/// All ways to the leased task's weights give what the fixture says.
fn assert_served(attached: &Attached, fixture: &Fixture, bundle: &Bundle) {
    let task = bundle.find_task(&attached.task()).unwrap();
    let tensors = attached.tensors();
    let (base, sparse) = tensors.split_at(fixture.base.len());
    for (position, (tensor, expected)) in base.iter().zip(&fixture.base).enumerate() {
        assert_eq!((name(tensor), shape(tensor)), (expected.name, &*expected.shape));
        assert_eq!((tensor.kind, tensor.dtype), (Kind::Base, Dtype::F32));
        assert_eq!(attached.dense(tensor), fixture.base_bytes(position as u32));
    }
    for (position, (tensor, expected)) in sparse.iter().zip(&fixture.tensors).enumerate() {
        assert_eq!((name(tensor), shape(tensor)), (expected.name, &expected.shape[..]));
        let dense = fixture.expected_dense(task, position);
        assert_eq!(attached.dense(tensor), dense);
        assert_blocks(attached, tensor, bundle, &dense);
    }
    assert_eq!(sparse.len(), fixture.tensors.len());
}

fn assert_blocks(attached: &Attached, tensor: &TensorInfo, bundle: &Bundle, dense: &[u8]) {
    let index = bundle.tensors().iter().find(|other| other.name() == name(tensor));
    let tiling = index.unwrap().tiling();
    assert_eq!([tensor.grid_rows, tensor.grid_cols], tiling.grid());
    let listed = attached.blocks(tensor);
    let mut listed = listed.iter().peekable();
    let mut expected = vec![0; tensor.block_bytes];
    for place in 0..tiling.places() {
        let (row, col) = (place / tensor.grid_cols, place % tensor.grid_cols);
        let block = attached.block(tensor, row, col);
        let next = listed.next_if(|block| (block.row, block.col) == (row, col));
        assert_eq!(next.map(|block| block.bytes.cast()), block.map(<[u8]>::as_ptr));
        tiling.cut(dense, place, &mut expected);
        match block {
            Some(bytes) => assert_eq!(bytes, expected),
            None => assert!(expected.iter().all(|&byte| byte == 0), "it is zero where none is"),
        }
    }
    assert!(listed.next().is_none(), "no block is told of twice, or elsewhere");
}

#[test]
fn c_reads_what_each_task_keeps_and_a_lease_keeps_it_through_a_switch() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let attached = Attached::to(&daemon);
    assert_eq!(attached.lease(), Err(Status::FailedPrecondition), "there is no task");
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        for (generation, task) in (1..).zip(["city", "highway", "parking"]) {
            control.switch_task(switch(task)).await.unwrap();
            if generation > 1 {
                assert_eq!(unsafe { sm_lease_generation(attached.0) }, generation - 1);
                assert_served(&attached, &fixture, &bundle);
                let mut now = 0;
                let status = unsafe { sm_wait(attached.0, generation - 1, 0, &raw mut now) };
                assert_eq!((status, now), (Status::Ok, generation), "it hears of it meanwhile");
                assert_eq!(attached.release(), Status::Ok);
            }
            assert_eq!(attached.lease(), Ok(generation));
            assert_eq!(attached.task(), task);
            assert_served(&attached, &fixture, &bundle);
        }
    });
    assert_eq!(attached.lease(), Err(Status::AlreadyExists));
    assert!(last_error().contains("generation 3"), "{}", last_error());
    assert_served(&attached, &fixture, &bundle);
}

#[test]
fn a_generation_that_is_not_current_is_refused_as_is_one_without_a_task() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let attached = Attached::to(&daemon);
    assert_eq!(attached.lease_of(1), Status::FailedPrecondition);
    assert!(last_error().contains("no active task"), "{}", last_error());
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        for task in ["city", "highway"] {
            control.switch_task(switch(task)).await.unwrap();
        }
    });
    for stale in [0, 1, 3, u64::MAX] {
        assert_eq!(attached.lease_of(stale), Status::FailedPrecondition);
        assert!(last_error().contains("is at generation 2"), "{}", last_error());
        assert_eq!(unsafe { sm_lease_generation(attached.0) }, 0);
    }
    assert_eq!(attached.lease_of(2), Status::Ok);
}

#[test]
fn of_no_inputs_comes_no_output_wherever_they_are_said_to_be() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let attached = Attached::to(&daemon);
    runtime().block_on(async {
        daemon.connect().await.switch_task(switch("city")).await.unwrap();
    });
    assert_eq!(attached.lease(), Ok(1));
    let tensors = attached.tensors();
    let sparse = tensors.iter().find(|tensor| tensor.kind == Kind::Sparse).unwrap();
    let product = |x, batch, y| unsafe { sm_product(attached.0, sparse.index, x, batch, y) };
    let mut float = 7.0;
    let at = &raw mut float;
    for (x, y) in [(ptr::null_mut(), ptr::null_mut()), (at, ptr::null_mut()), (at, at)] {
        assert_eq!(product(x, 0, y), Status::Ok, "{}", last_error());
    }
    assert_eq!(product(ptr::null(), 1, at), Status::InvalidArgument);
    assert_eq!(product(at, 1, ptr::null_mut()), Status::InvalidArgument);
    assert_eq!(float, 7.0, "nothing is written");
}

#[test]
fn a_lease_that_lasts_too_long_is_revoked_but_stays_readable() {
    let (folder, fixture, bundle) = bundle();
    let daemon = impatient(&folder.path().join("small.mesh"), whole(&bundle));
    let attached = Attached::to(&daemon);
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        control.switch_task(switch("city")).await.unwrap();
        assert_eq!(attached.lease(), Ok(1));
        control.switch_task(switch("highway")).await.unwrap();
    });
    let mut generation = 0;
    let status = unsafe { sm_wait(attached.0, 2, 60_000, &raw mut generation) };
    assert_eq!((status, attached.check()), (Status::Cancelled, Status::Cancelled));
    assert_eq!(attached.task(), "city");
    assert_served(&attached, &fixture, &bundle);
    assert_eq!(attached.release(), Status::Ok);
    let since = Instant::now();
    assert_eq!(attached.lease(), Err(Status::Cancelled));
    assert!(since.elapsed() < Duration::from_secs(1), "at once");
    assert_eq!(Attached::to(&daemon).lease(), Ok(2), "who attaches again leases again");
}

fn impatient(bundle: &Path, pool_bytes: u64) -> Daemon {
    Daemon::with_config(|_| {
        let bundle = bundle.display();
        format!(
            "models: [{{bundle: {bundle}, pool_bytes: {pool_bytes}}}]\n\
             limits: {{lease_patience_ms: 100}}\n"
        )
    })
}
