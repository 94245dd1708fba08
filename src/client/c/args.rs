//! Arguments from C: pointers that are checked as far as that can be done, and what is read and
//! written through them.
//!
//! NULL, a wrong alignment and an impossible size are refused. That a pointer leads to what it
//! should, only the caller can promise: hence each function here is unsafe, and says what it is that
//! the functions of the interface ask of their callers.

use super::status::Failure;
use std::{
    ffi::{CStr, c_char},
    mem::MaybeUninit,
    slice,
};
use zerocopy::FromZeros;

/// A place for a result. Its value is not read, so it need not have one.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    ///
    /// It can be written while the result lives, if it is not NULL.
    pub(super) unsafe fn new(pointer: *mut T, what: &str) -> Result<Self, Failure> {
        check(pointer, what)?;
        Ok(Self(pointer))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: it is neither NULL nor misaligned and can be written: `new`, and its caller.
        unsafe { self.0.write(value) }
    }
}

/// # Safety
///
/// It leads to a `T` that nobody changes while the result lives, if it is not NULL.
pub(super) unsafe fn shared<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    check(pointer, what)?;
    // SAFETY: it is neither NULL nor misaligned (`check`); the rest is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// # Safety
///
/// It leads to a `T` that nobody else uses while the result lives, if it is not NULL.
pub(super) unsafe fn exclusive<'a, T>(pointer: *mut T, what: &str) -> Result<&'a mut T, Failure> {
    check(pointer, what)?;
    // SAFETY: it is neither NULL nor misaligned (`check`); the rest is the caller's promise.
    Ok(unsafe { &mut *pointer })
}

/// # Safety
///
/// It is a string that nobody changes while the result lives, if it is not NULL.
pub(super) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, Failure> {
    check(pointer, what)?;
    // SAFETY: it is not NULL (`check`); that it ends, and stays, is the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::argument(format!("{what} is not UTF-8")))
}

/// The same, where NULL stands for the empty string.
///
/// # Safety
///
/// As for [`text`].
pub(super) unsafe fn text_or_empty<'a>(
    pointer: *const c_char,
    what: &str,
) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Ok("");
    }
    // SAFETY: the caller promises the same.
    unsafe { text(pointer, what) }
}

/// Elements to read. Where there are none, any pointer will do: that of an empty vector may be NULL.
///
/// # Safety
///
/// It leads to `len` elements that nobody changes while the result lives, if it is not NULL.
pub(super) unsafe fn elements<'a, T>(
    pointer: *const T,
    len: usize,
    what: &str,
) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    check_many(pointer, len, what)?;
    // SAFETY: it is neither NULL nor misaligned, and the size is possible (`check_many`); the rest
    // is the caller's promise.
    Ok(unsafe { slice::from_raw_parts(pointer, len) })
}

/// Room to write to, of which nothing is known. Where there is none, any pointer will do.
///
/// # Safety
///
/// There is room for `len` elements that nobody else uses while the result lives, if it is not NULL.
pub(super) unsafe fn room<'a, T>(
    pointer: *mut T,
    len: usize,
    what: &str,
) -> Result<&'a mut [MaybeUninit<T>], Failure> {
    if len == 0 {
        return Ok(&mut []);
    }
    check_many(pointer, len, what)?;
    // SAFETY: it is neither NULL nor misaligned, and the size is possible (`check_many`); anything
    // is a value of `MaybeUninit`; the rest is the caller's promise.
    Ok(unsafe { slice::from_raw_parts_mut(pointer.cast(), len) })
}

/// Elements to write to, which become zeros: C may give memory that has no values yet. Where there
/// are none, any pointer will do.
///
/// # Safety
///
/// It leads to room for `len` elements that nobody else uses while the result lives, if it is not
/// NULL.
pub(super) unsafe fn zeros<'a, T: FromZeros>(
    pointer: *mut T,
    len: usize,
    what: &str,
) -> Result<&'a mut [T], Failure> {
    if len == 0 {
        return Ok(&mut []);
    }
    check_many(pointer, len, what)?;
    // SAFETY: it is neither NULL nor misaligned (`check_many`), and can be written: the caller.
    unsafe { pointer.write_bytes(0, len) };
    // SAFETY: as before, the size is possible (`check_many`), and zeros are a value (`FromZeros`).
    Ok(unsafe { slice::from_raw_parts_mut(pointer, len) })
}

fn check<T>(pointer: *const T, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{what} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("{what} is not aligned for its type")));
    }
    Ok(())
}

fn check_many<T>(pointer: *const T, len: usize, what: &str) -> Result<(), Failure> {
    check(pointer, what)?;
    let bytes = len.checked_mul(size_of::<T>());
    match bytes.and_then(|bytes| pointer.addr().checked_add(bytes).zip(isize::try_from(bytes).ok()))
    {
        Some(_) => Ok(()),
        None => Err(Failure::argument(format!("{what} cannot have {len} elements"))),
    }
}
