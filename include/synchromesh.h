// The client for C and C++: attach to a session of the daemon, and compute on its memory in place.
//
// Attach once; then, for each frame: take a lease, compute on what it pins, release it. Nothing
// here switches tasks, which is a gRPC call, and nothing starts a thread, takes a lock or attaches
// again by itself.
//
// Results. A function that can fail gives a status; 0 is success, the others are gRPC codes. The
// text of a thread's last failure is told by sm_last_error. A call that fails leaves the
// attachment as it was, and writes no result.
//
// Pointers. One that is NULL or not aligned for its type is refused (SM_STATUS_INVALID_ARGUMENT),
// where it is not said that it may be NULL. All others must be valid: an attachment comes from
// sm_attach and is not detached yet, what is read is initialised and nobody writes it meanwhile,
// what is written is nobody else's. Strings end with NUL and are UTF-8.
//
// Lifetimes. What points into weights holds until the lease is released, and is read-only memory;
// after that the daemon may write there. If the daemon dies, what is leased stays as it is; if it
// lives and ends the membership, see sm_check. Names and shapes hold until sm_detach. Positions
// of tensors hold for as long as the attachment.
//
// Threads. A function that takes a const attachment may run beside others that do. One that takes
// an attachment that is not const must be the only one that runs with that attachment; so must
// sm_detach. So a thread that sleeps in sm_wait keeps all others from the attachment. Wait for
// the descriptors of sm_descriptors instead, in the loop of the thread that takes the leases; or
// give the thread that waits an attachment of its own. Bytes under a lease can be read by any number
// of threads. After a fork, the child must not use the attachment.

#ifndef SYNCHROMESH_H
#define SYNCHROMESH_H

// Made of src/client/c by tests/header.rs. Do not edit.

#include <stddef.h>
#include <stdint.h>

// What became of a call: a gRPC status code.
typedef enum sm_status {
  // It is done.
  SM_STATUS_OK = 0,
  // A lease lasted too long and was revoked: detach, and attach again.
  SM_STATUS_CANCELLED = 1,
  // The daemon refuses for a reason that this library does not know.
  SM_STATUS_UNKNOWN = 2,
  // An argument cannot be right.
  SM_STATUS_INVALID_ARGUMENT = 3,
  // It did not happen in time.
  SM_STATUS_DEADLINE_EXCEEDED = 4,
  // There is nothing of this name.
  SM_STATUS_NOT_FOUND = 5,
  // A lease is held already: release it first.
  SM_STATUS_ALREADY_EXISTS = 6,
  // This process may not attach.
  SM_STATUS_PERMISSION_DENIED = 7,
  // There is no place left, or not enough of something that the system gives.
  SM_STATUS_RESOURCE_EXHAUSTED = 8,
  // No lease is held; or, when one is asked for, the session has no task, or is at another
  // generation than the one asked for.
  SM_STATUS_FAILED_PRECONDITION = 9,
  // This library cannot do it: another version of the daemon, another type of elements.
  SM_STATUS_UNIMPLEMENTED = 12,
  // A defect of this library, or a failure of the system that it does not expect.
  SM_STATUS_INTERNAL = 13,
  // The daemon is gone, not there yet, or busy, or has ended the membership: attach again later.
  SM_STATUS_UNAVAILABLE = 14,
  // What the daemon hands out is inconsistent.
  SM_STATUS_DATA_LOSS = 15,
} sm_status;

// How a tensor is kept.
typedef enum sm_kind {
  // As it is, for every task: see sm_base.
  SM_KIND_BASE = 0,
  // Cut into blocks, of which each task has some: see sm_block_at and sm_blocks. Where the task
  // has no block, the weights are zero.
  SM_KIND_SPARSE = 1,
} sm_kind;

// The type of an element; all are little endian.
typedef enum sm_dtype {
  // One that this library has no number for.
  SM_DTYPE_OTHER = 0,
  // One byte, 0 or 1.
  SM_DTYPE_BOOL = 1,
  // Unsigned, 8 bits.
  SM_DTYPE_U8 = 2,
  // Signed, 8 bits.
  SM_DTYPE_I8 = 3,
  // Float of 8 bits, 5 of them exponent.
  SM_DTYPE_F8E5M2 = 4,
  // Float of 8 bits, 4 of them exponent.
  SM_DTYPE_F8E4M3 = 5,
  // Signed, 16 bits.
  SM_DTYPE_I16 = 6,
  // Unsigned, 16 bits.
  SM_DTYPE_U16 = 7,
  // IEEE 754 half precision.
  SM_DTYPE_F16 = 8,
  // The upper half of an F32.
  SM_DTYPE_BF16 = 9,
  // Signed, 32 bits.
  SM_DTYPE_I32 = 10,
  // Unsigned, 32 bits.
  SM_DTYPE_U32 = 11,
  // IEEE 754 single precision.
  SM_DTYPE_F32 = 12,
  // IEEE 754 double precision.
  SM_DTYPE_F64 = 13,
  // Signed, 64 bits.
  SM_DTYPE_I64 = 14,
  // Unsigned, 64 bits.
  SM_DTYPE_U64 = 15,
} sm_dtype;

// Membership in a session, with its lease if it has one.
typedef struct sm_attachment sm_attachment;

// What is known of a tensor. Its grid has grid_rows x grid_cols places, and the block at row r and
// column c of the grid begins at the element (r * block_rows, c * block_cols) of the tensor. All
// fields on grid and blocks are 0 for a tensor of the base.
typedef struct sm_tensor {
  // Its name. Holds until sm_detach.
  const char *name;
  // Its position, by which functions are told the tensor.
  size_t index;
  // How it is kept.
  enum sm_kind kind;
  // The type of its elements.
  enum sm_dtype dtype;
  // Number of dimensions.
  size_t rank;
  // Elements in each dimension, `rank` of them. Holds until sm_detach.
  const size_t *shape;
  // Bytes of the whole tensor, zeros included: what sm_to_dense writes.
  size_t bytes;
  // Rows of the grid.
  size_t grid_rows;
  // Columns of the grid.
  size_t grid_cols;
  // Rows of a block, in elements.
  size_t block_rows;
  // Columns of a block, in elements.
  size_t block_cols;
  // Bytes of a block.
  size_t block_bytes;
} sm_tensor;

// A block of a tensor, in place.
typedef struct sm_block {
  // Its row in the grid.
  size_t row;
  // Its column in the grid.
  size_t col;
  // Its block_bytes bytes: block_rows x block_cols elements, row by row, at an address that is a
  // multiple of 4096. Elements beyond the tensor's edge are zero. Holds until the lease is released.
  const void *bytes;
} sm_block;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Attaches to a session of the daemon whose attach socket is at `path`.
//
// `model` and `session` may be NULL or empty: the only model, its default session. The result is to
// be given to sm_detach. May block for as long as the daemon does not answer, at most some 20 s.
//
// SM_STATUS_UNAVAILABLE: nobody listens, or all places are taken at the moment: try again later.
// SM_STATUS_NOT_FOUND: there is no such model or session. SM_STATUS_PERMISSION_DENIED: this process
// may not attach. SM_STATUS_RESOURCE_EXHAUSTED: the session, or this process, has as many clients as
// it may. SM_STATUS_UNIMPLEMENTED: daemon and library differ in version.
//
// # Safety
//
// `path`, `model` and `session` are strings or NULL, `attachment` can be written.
enum sm_status sm_attach(const char *path,
                         const char *model,
                         const char *session,
                         struct sm_attachment **attachment);

// Ends the membership, and the lease if one is held. Nothing happens if `attachment` is NULL.
//
// # Safety
//
// `attachment` comes from sm_attach and is not used any more, nor is anything that points into it
// or its weights.
void sm_detach(struct sm_attachment *attachment);

// Gives two descriptors to poll for reading: the doorbell, which can be read when something was
// published, and the socket, which can be read when the connection has ended. Whenever one of them
// is ready, call sm_wait with a timeout of 0, and it can sleep again. They stay the attachment's:
// neither read, write nor close them.
//
// # Safety
//
// `attachment` is one or NULL, `doorbell` and `socket` can be written.
enum sm_status sm_descriptors(const struct sm_attachment *attachment, int *doorbell, int *socket);

// The session's generation, which grows with each switch that is published; 0 before the first one,
// and if `attachment` is NULL. There may be no task in it. No system call.
//
// # Safety
//
// `attachment` is one or NULL.
uint64_t sm_generation(const struct sm_attachment *attachment);

// Whether the daemon lives and the membership stands. No system call.
//
// SM_STATUS_UNAVAILABLE: the daemon is gone, or has ended the membership, as it does when its socket
// is written to or shut down. SM_STATUS_CANCELLED: a lease lasted longer than
// `limits.lease_patience_ms` of the daemon, and was revoked. After both there will be no other lease:
// detach, and attach again. What is leased stays readable. It also stays as it is, except where a
// daemon that lives has ended the membership: that one may write there.
//
// # Safety
//
// `attachment` is one or NULL.
enum sm_status sm_check(const struct sm_attachment *attachment);

// Waits until the session serves a task in a generation beyond this one, and tells which; a lease
// may be held meanwhile. `timeout_ms` is in milliseconds: 0 only looks, a negative one waits for ever.
// No other thread may use the attachment meanwhile, not even sm_check or a const one: a thread that
// only waits wants an attachment of its own, or the descriptors of sm_descriptors.
//
//
// When a lease is taken then, the session may have gone on: to a later generation, which sm_lease
// tells, or to none with a task.
//
// SM_STATUS_DEADLINE_EXCEEDED: there was none in time. SM_STATUS_UNAVAILABLE and
// SM_STATUS_CANCELLED, at once: as for sm_check.
//
// # Safety
//
// `attachment` is one or NULL that nobody else uses meanwhile, `generation` can be written.
enum sm_status sm_wait(struct sm_attachment *attachment,
                       uint64_t beyond,
                       int timeout_ms,
                       uint64_t *generation);

// The version of this library, such as "0.1.0". Holds for ever.
const char *sm_version(void);

// Pins what the session serves now, until sm_release: none of its weights changes meanwhile. Tells
// the generation. No system call. A lease that outlasts `limits.lease_patience_ms` of the daemon
// after a switch is revoked: sm_check tells.
//
// SM_STATUS_FAILED_PRECONDITION: the session has no task: sm_wait for one.
// SM_STATUS_ALREADY_EXISTS: a lease is held already, and goes on. SM_STATUS_UNAVAILABLE and
// SM_STATUS_CANCELLED: as for sm_check.
//
// # Safety
//
// `attachment` is one or NULL that nobody else uses meanwhile, `generation` can be written.
enum sm_status sm_lease(struct sm_attachment *attachment, uint64_t *generation);

// The same, if the session is at this very generation, as told by whoever switched.
//
// SM_STATUS_FAILED_PRECONDITION: the session has no task, or is at another generation; sm_last_error
// says which, and no lease is held. Do not ask for the same one again before sm_generation is there;
// once that is beyond it, it never comes back. The others: as for sm_lease.
//
// # Safety
//
// `attachment` is one or NULL that nobody else uses meanwhile.
enum sm_status sm_lease_of(struct sm_attachment *attachment,
                           uint64_t generation);

// Ends the lease. No system call.
//
// SM_STATUS_FAILED_PRECONDITION: no lease is held.
//
// # Safety
//
// `attachment` is one or NULL that nobody else uses meanwhile; nobody goes on reading weights.
enum sm_status sm_release(struct sm_attachment *attachment);

// The generation that is leased; 0 if no lease is held.
//
// # Safety
//
// `attachment` is one or NULL.
uint64_t sm_lease_generation(const struct sm_attachment *attachment);

// The name of the task that is leased; NULL if no lease is held. Holds until sm_detach.
//
// # Safety
//
// `attachment` is one or NULL.
const char *sm_task(const struct sm_attachment *attachment);

// Why the last call of this thread that failed did so, for people to read; empty if none has. Holds
// until the next call of this thread. Success does not clear it.
const char *sm_last_error(void);

// How many tensors the model has; 0 if `attachment` is NULL.
//
// # Safety
//
// `attachment` is one or NULL.
size_t sm_tensor_count(const struct sm_attachment *attachment);

// Describes the tensor at a position, from 0 on. Needs no lease.
//
// SM_STATUS_INVALID_ARGUMENT: there is no such position.
//
// # Safety
//
// `attachment` is one or NULL, `info` can be written.
enum sm_status sm_tensor_at(const struct sm_attachment *attachment,
                            size_t index,
                            struct sm_tensor *info);

// Describes the tensor of a name; looks through all of them, so keep what is found. Needs no lease.
//
// SM_STATUS_NOT_FOUND: there is none.
//
// # Safety
//
// `attachment` is one or NULL, `name` is a string or NULL, `info` can be written.
enum sm_status sm_find_tensor(const struct sm_attachment *attachment,
                              const char *name,
                              struct sm_tensor *info);

// Gives a base tensor in place, as its elements lie: row by row. It is the same for all tasks.
//
// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the tensor is cut into
// blocks, or there is none at this position.
//
// # Safety
//
// `attachment` is one or NULL, `data` and `bytes` can be written.
enum sm_status sm_base(const struct sm_attachment *attachment,
                       size_t tensor,
                       const void **data,
                       size_t *bytes);

// Gives the block at a place of a tensor's grid, as sm_block has it; NULL if the task has none there,
// so that the weights are zero. Takes a few memory accesses, whatever the number of blocks.
//
// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the tensor is of the
// base, or there is no such tensor or place. SM_STATUS_DATA_LOSS: the daemon's table does not say
// where the block is; its weights are not zero but unknown.
//
// # Safety
//
// `attachment` is one or NULL, `bytes` can be written.
enum sm_status sm_block_at(const struct sm_attachment *attachment,
                           size_t tensor,
                           size_t row,
                           size_t col,
                           const void **bytes);

// Gives all blocks that the task has of a tensor, row by row of the grid, and tells in `count` how
// many these are. Only the first `capacity` of them are written to `blocks`, which may be NULL if
// `capacity` is 0; grid_rows x grid_cols are always enough.
//
// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the tensor is of the
// base, or there is none at this position. SM_STATUS_DATA_LOSS: as for sm_block_at; some of `blocks`
// may be written then.
//
// # Safety
//
// `attachment` is one or NULL, `blocks` has room for `capacity` blocks, `count` can be written.
enum sm_status sm_blocks(const struct sm_attachment *attachment,
                         size_t tensor,
                         struct sm_block *blocks,
                         size_t capacity,
                         size_t *count);

// Copies a whole tensor to `out`, row by row: one of the base as it is, one that is cut into blocks
// as the task has it, with zeros where it has no block. `bytes` is the size of `out`, which must be
// that of the tensor.
//
// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the size is another, or
// there is no tensor at this position. SM_STATUS_DATA_LOSS: as for sm_block_at; `out` holds nothing of
// use then.
//
// # Safety
//
// `attachment` is one or NULL, `out` has room for `bytes` bytes.
enum sm_status sm_to_dense(const struct sm_attachment *attachment,
                           size_t tensor,
                           void *out,
                           size_t bytes);

// Computes y = x . W^T of a tensor W that is cut into blocks, in place, in 32-bit floats: what a
// linear layer does. W is shape[0] (out) x shape[1] (in); `x` is batch x shape[1] and `y` batch x
// shape[0] floats, row by row. All of `y` is written; it must not overlap `x`. Both may be NULL if
// `batch` is 0, where there is nothing to compute. One thread; several may do so at a time.
//
// Not for a thread that must not allocate: each call takes from the heap a copy of `x`, a list of the
// blocks in one row of the grid and some KiB, and for some shapes of blocks the size of one more.
//
// SM_STATUS_FAILED_PRECONDITION: no lease is held. SM_STATUS_INVALID_ARGUMENT: the tensor is of the
// base, or there is none at this position, or `y` overlaps `x`. SM_STATUS_UNIMPLEMENTED: its elements
// are not F32, F16 or BF16. SM_STATUS_DATA_LOSS: as for sm_block_at. If it fails, `y` holds nothing of
// use.
//
// # Safety
//
// `attachment` is one or NULL, `x` has batch x shape[1] floats, `y` has room for batch x shape[0].
enum sm_status sm_product(const struct sm_attachment *attachment,
                          size_t tensor,
                          const float *x,
                          size_t batch,
                          float *y);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SYNCHROMESH_H */
