//! The border between C++ and Rust: raw pointers, and panics turned into messages. What is done with a tokenizer is in `tokenizer.rs`.
//! The contract of every function is in `fluoroscope_tokenizer.h`.

mod tokenizer;

use std::panic::{catch_unwind, set_hook, AssertUnwindSafe};
use std::slice;
use std::sync::Once;

use tokenizer::FsTokenizer;

const OK: i32 = 0;
const INVALID: i32 = 1;
const PANIC: i32 = 2;

#[repr(C)]
pub struct FsBytes {
    data: *mut u8,
    size: usize,
}

#[repr(C)]
pub struct FsEncoding {
    ids: *mut u32,
    added: *mut u8,
    size: usize,
}

/// Runs `body`; whatever goes wrong in it ends up as a code and a message.
unsafe fn guard<T>(out: *mut T, error: *mut FsBytes, body: impl FnOnce() -> Result<T, String>) -> i32 {
    let (code, message) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => {
            out.write(value);
            return OK;
        }
        Ok(Err(message)) => (INVALID, message),
        Err(payload) => (PANIC, panic_message(payload.as_ref())),
    };
    error.write(give(message.into_bytes()));
    code
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return text.to_string();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "an unknown panic".to_string())
}

fn give(bytes: Vec<u8>) -> FsBytes {
    let bytes = bytes.into_boxed_slice();
    FsBytes { size: bytes.len(), data: Box::into_raw(bytes) as *mut u8 }
}

/// A C++ view may have a null pointer when it is empty; a Rust slice may not.
unsafe fn view<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        return &[];
    }
    slice::from_raw_parts(data, size)
}

#[no_mangle]
pub unsafe extern "C" fn fs_tokenizer_load(json: *const u8, json_size: usize, out: *mut *mut FsTokenizer, error: *mut FsBytes) -> i32 {
    // A panic is reported through `error`; the default hook would also print it, with a backtrace, in the middle of the server's log.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| set_hook(Box::new(|_| {})));
    guard(out, error, || FsTokenizer::from_json(view(json, json_size)).map(|t| Box::into_raw(Box::new(t))))
}

#[no_mangle]
pub unsafe extern "C" fn fs_tokenizer_free(tokenizer: *mut FsTokenizer) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(tokenizer))));
}

#[no_mangle]
pub unsafe extern "C" fn fs_tokenizer_encode(
    tokenizer: *const FsTokenizer,
    text: *const u8,
    text_size: usize,
    add_special: i32,
    parse_special: i32,
    out: *mut FsEncoding,
    error: *mut FsBytes,
) -> i32 {
    guard(out, error, || {
        let text = std::str::from_utf8(view(text, text_size))
            .map_err(|e| format!("the text is not valid UTF-8: the byte at offset {} does not belong there", e.valid_up_to()))?;
        let (ids, added) = (*tokenizer).encode(text, add_special != 0, parse_special != 0)?;
        assert_eq!(ids.len(), added.len());
        let size = ids.len();
        let ids = Box::into_raw(ids.into_boxed_slice()) as *mut u32;
        Ok(FsEncoding { ids, added: Box::into_raw(added.into_boxed_slice()) as *mut u8, size })
    })
}

#[no_mangle]
pub unsafe extern "C" fn fs_tokenizer_decode(
    tokenizer: *const FsTokenizer,
    ids: *const u32,
    id_count: usize,
    skip_special: i32,
    out: *mut FsBytes,
    error: *mut FsBytes,
) -> i32 {
    guard(out, error, || (*tokenizer).decode(view(ids, id_count), skip_special != 0).map(|text| give(text.into_bytes())))
}

#[no_mangle]
pub unsafe extern "C" fn fs_tokenizer_token_text(tokenizer: *const FsTokenizer, id: u32, out: *mut FsBytes, error: *mut FsBytes) -> i32 {
    guard(out, error, || (*tokenizer).token_text(id).map(|text| give(text.into_bytes())))
}

#[no_mangle]
pub unsafe extern "C" fn fs_tokenizer_token_to_id(tokenizer: *const FsTokenizer, token: *const u8, token_size: usize) -> i64 {
    let id = catch_unwind(AssertUnwindSafe(|| (*tokenizer).token_to_id(std::str::from_utf8(view(token, token_size)).ok()?)));
    id.ok().flatten().map_or(-1, i64::from)
}

#[no_mangle]
pub unsafe extern "C" fn fs_tokenizer_vocabulary_size(tokenizer: *const FsTokenizer) -> i64 {
    (*tokenizer).vocabulary_size() as i64
}

#[no_mangle]
pub unsafe extern "C" fn fs_bytes_free(bytes: FsBytes) {
    drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes.data, bytes.size)));
}

#[no_mangle]
pub unsafe extern "C" fn fs_encoding_free(encoding: FsEncoding) {
    drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(encoding.ids, encoding.size)));
    drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(encoding.added, encoding.size)));
}
