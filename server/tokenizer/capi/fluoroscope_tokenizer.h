// The C ABI of capi/src/lib.rs: Hugging Face's `tokenizers` crate. Only tokenizer.cc includes this.
// No call aborts or throws: each returns FS_OK, or another code with a UTF-8 message in *error. Strings and arrays handed out belong to the
// caller until given back with the matching free function. A handle is immutable: any thread may use it, many at once.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct FsTokenizer FsTokenizer;

typedef struct {
  uint8_t* data;
  size_t size;
} FsBytes;

typedef struct {
  uint32_t* ids;
  uint8_t* added;  // 1 where the post-processor put the token, 0 where it comes from the text
  size_t size;
} FsEncoding;

enum { FS_OK = 0, FS_INVALID = 1, FS_PANIC = 2 };

int32_t fs_tokenizer_load(const uint8_t* json, size_t json_size, FsTokenizer** tokenizer, FsBytes* error);
void fs_tokenizer_free(FsTokenizer* tokenizer);

// `parse_special` 0: special tokens written in the text are plain text. FS_INVALID when the text is not UTF-8.
int32_t fs_tokenizer_encode(const FsTokenizer* tokenizer, const uint8_t* text, size_t text_size, int32_t add_special, int32_t parse_special,
                            FsEncoding* encoding, FsBytes* error);
// FS_INVALID when an id is none of this tokenizer's.
int32_t fs_tokenizer_decode(const FsTokenizer* tokenizer, const uint32_t* ids, size_t id_count, int32_t skip_special, FsBytes* text,
                            FsBytes* error);
// One token as it reads inside a text (a leading space stays), invalid UTF-8 replaced.
int32_t fs_tokenizer_token_text(const FsTokenizer* tokenizer, uint32_t id, FsBytes* text, FsBytes* error);

int64_t fs_tokenizer_token_to_id(const FsTokenizer* tokenizer, const uint8_t* token, size_t token_size);  // -1: no such token
int64_t fs_tokenizer_vocabulary_size(const FsTokenizer* tokenizer);

void fs_bytes_free(FsBytes bytes);
void fs_encoding_free(FsEncoding encoding);

#ifdef __cplusplus
}
#endif
