// What goes wrong, and what is told then: wrong arguments, wrong order of calls, and a daemon that
// dies under a lease. A test, and a list of what to be ready for.
//
//   errors ATTACH_SOCKET TENSOR BASE_TENSOR DAEMON_PID
//
// Kills the daemon; somebody must start another one at the same socket and make a task active.

#include <synchromesh.h>

#include <signal.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

void require(bool condition, const char *text, int line) {
    if (!condition) {
        std::fprintf(stderr, "errors.cpp:%d: not so: %s (last error: %s)\n", line, text,
                     sm_last_error());
        std::exit(1);
    }
}
#define REQUIRE(condition) require((condition), #condition, __LINE__)

bool last_error_has(const char *text) { return std::strstr(sm_last_error(), text) != nullptr; }

// What the daemon or the arguments refuse: no attachment comes of it.
void attaching(const char *path) {
    sm_attachment *attachment = nullptr;
    REQUIRE(sm_attach(nullptr, "", "", &attachment) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(last_error_has("path is NULL"));
    REQUIRE(sm_attach(path, "", "", nullptr) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(sm_attach("\xff", "", "", &attachment) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(last_error_has("UTF-8"));
    const std::string too_long(200, 'x');
    REQUIRE(sm_attach(too_long.c_str(), "", "", &attachment) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(sm_attach(path, too_long.c_str(), "", &attachment) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(sm_attach(path, "", "no session", &attachment) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(sm_attach(path, "other", nullptr, &attachment) == SM_STATUS_NOT_FOUND);
    REQUIRE(sm_attach(path, nullptr, "other", &attachment) == SM_STATUS_NOT_FOUND);
    REQUIRE(sm_attach("/nonexistent/attach.sock", "", "", &attachment) == SM_STATUS_UNAVAILABLE);
    REQUIRE(attachment == nullptr);
    sm_detach(nullptr);
}

// Every function, without an attachment.
void without_an_attachment() {
    std::uint64_t generation = 0;
    std::size_t count = 0;
    int fd = 0;
    sm_tensor info;
    const void *bytes = nullptr;
    float number = 0;
    REQUIRE(sm_generation(nullptr) == 0);
    REQUIRE(sm_lease_generation(nullptr) == 0);
    REQUIRE(sm_tensor_count(nullptr) == 0);
    REQUIRE(sm_task(nullptr) == nullptr);
    for (const sm_status status : {
             sm_check(nullptr),
             sm_descriptors(nullptr, &fd, &fd),
             sm_wait(nullptr, 0, 0, &generation),
             sm_lease(nullptr, &generation),
             sm_lease_of(nullptr, 1),
             sm_release(nullptr),
             sm_tensor_at(nullptr, 0, &info),
             sm_find_tensor(nullptr, "x", &info),
             sm_base(nullptr, 0, &bytes, &count),
             sm_block_at(nullptr, 0, 0, 0, &bytes),
             sm_blocks(nullptr, 0, nullptr, 0, &count),
             sm_to_dense(nullptr, 0, &number, sizeof number),
             sm_product(nullptr, 0, &number, 1, &number),
         }) {
        REQUIRE(status == SM_STATUS_INVALID_ARGUMENT);
        REQUIRE(last_error_has("attachment is NULL"));
    }
}

// What there is to know without a lease, and what there is not.
void without_a_lease(sm_attachment *attachment, const sm_tensor &sparse, const sm_tensor &base) {
    sm_tensor info;
    REQUIRE(sm_find_tensor(attachment, "other", &info) == SM_STATUS_NOT_FOUND);
    REQUIRE(sm_find_tensor(attachment, nullptr, &info) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(sm_find_tensor(attachment, sparse.name, nullptr) == SM_STATUS_INVALID_ARGUMENT);
    const std::size_t count = sm_tensor_count(attachment);
    REQUIRE(sm_tensor_at(attachment, count, &info) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(sm_tensor_at(attachment, SIZE_MAX, &info) == SM_STATUS_INVALID_ARGUMENT);
    for (std::size_t i = 0; i < count; i++) {
        REQUIRE(sm_tensor_at(attachment, i, &info) == SM_STATUS_OK && info.index == i);
    }
    const void *bytes = nullptr;
    std::size_t size = 0;
    std::vector<float> floats(sparse.bytes);
    REQUIRE(sm_release(attachment) == SM_STATUS_FAILED_PRECONDITION);
    REQUIRE(last_error_has("no lease is held"));
    REQUIRE(sm_task(attachment) == nullptr && sm_lease_generation(attachment) == 0);
    for (const sm_status status : {
             sm_base(attachment, base.index, &bytes, &size),
             sm_block_at(attachment, sparse.index, 0, 0, &bytes),
             sm_blocks(attachment, sparse.index, nullptr, 0, &size),
             sm_to_dense(attachment, sparse.index, floats.data(), sparse.bytes),
             sm_product(attachment, sparse.index, floats.data(), 0, floats.data()),
         }) {
        REQUIRE(status == SM_STATUS_FAILED_PRECONDITION);
    }
}

// Leases: one at a time, of the generation that is asked for.
void leasing(sm_attachment *attachment) {
    std::uint64_t generation = 0, other = 0;
    const std::uint64_t now = sm_generation(attachment);
    for (const std::uint64_t stale : {now - 1, now + 1, std::uint64_t{UINT64_MAX}}) {
        REQUIRE(sm_lease_of(attachment, stale) == SM_STATUS_FAILED_PRECONDITION);
        REQUIRE(last_error_has("is at generation"));
        REQUIRE(sm_lease_generation(attachment) == 0);
    }
    REQUIRE(sm_lease(attachment, nullptr) == SM_STATUS_INVALID_ARGUMENT);
    REQUIRE(sm_lease_generation(attachment) == 0);
    REQUIRE(sm_lease_of(attachment, now) == SM_STATUS_OK);
    REQUIRE(sm_lease(attachment, &other) == SM_STATUS_ALREADY_EXISTS && other == 0);
    REQUIRE(last_error_has("still held"));
    REQUIRE(sm_lease_of(attachment, now) == SM_STATUS_ALREADY_EXISTS);
    REQUIRE(sm_lease_generation(attachment) == now && sm_task(attachment) != nullptr);
    REQUIRE(sm_wait(attachment, now, 0, &other) == SM_STATUS_DEADLINE_EXCEEDED && other == 0);
    REQUIRE(sm_release(attachment) == SM_STATUS_OK);
    REQUIRE(sm_lease(attachment, &generation) == SM_STATUS_OK && generation == now);
}

// Wrong arguments under a lease.
void looking_up(const sm_attachment *attachment, const sm_tensor &sparse, const sm_tensor &base) {
    const void *bytes = nullptr;
    std::size_t size = 0;
    std::vector<float> floats(sparse.bytes + sparse.shape[0] + sparse.shape[1]);
    float *const y = floats.data() + sparse.shape[1];
    for (const sm_status status : {
             sm_base(attachment, sparse.index, &bytes, &size),
             sm_base(attachment, SIZE_MAX, &bytes, &size),
             sm_base(attachment, base.index, nullptr, &size),
             sm_base(attachment, base.index, &bytes, nullptr),
             sm_block_at(attachment, base.index, 0, 0, &bytes),
             sm_block_at(attachment, sparse.index, sparse.grid_rows, 0, &bytes),
             sm_block_at(attachment, sparse.index, 0, sparse.grid_cols, &bytes),
             sm_block_at(attachment, sparse.index, SIZE_MAX, SIZE_MAX, &bytes),
             sm_blocks(attachment, sparse.index, nullptr, 1, &size),
             sm_blocks(attachment, sparse.index, nullptr, 0, nullptr),
             sm_to_dense(attachment, sparse.index, floats.data(), sparse.bytes - 1),
             sm_to_dense(attachment, sparse.index, nullptr, sparse.bytes),
             sm_product(attachment, base.index, floats.data(), 1, y),
             sm_product(attachment, sparse.index, nullptr, 1, y),
             sm_product(attachment, sparse.index, floats.data(), 1, nullptr),
             sm_product(attachment, sparse.index, floats.data(), 1, floats.data()),
             sm_product(attachment, sparse.index, floats.data(), SIZE_MAX, y),
         }) {
        REQUIRE(status == SM_STATUS_INVALID_ARGUMENT);
    }
    REQUIRE(bytes == nullptr && size == 0);
    // No rows at all are no mistake, and an empty vector may have no address.
    REQUIRE(sm_product(attachment, sparse.index, nullptr, 0, nullptr) == SM_STATUS_OK);
}

// The ways to the same weights agree.
void reading(const sm_attachment *attachment, const sm_tensor &sparse, const sm_tensor &base) {
    std::vector<sm_block> blocks(sparse.grid_rows * sparse.grid_cols);
    std::size_t count = 0, none = 0;
    REQUIRE(sm_blocks(attachment, sparse.index, blocks.data(), blocks.size(), &count) ==
            SM_STATUS_OK);
    REQUIRE(sm_blocks(attachment, sparse.index, nullptr, 0, &none) == SM_STATUS_OK);
    REQUIRE(count == none && count > 0 && count <= blocks.size());
    std::size_t next = 0;
    for (std::size_t row = 0; row < sparse.grid_rows; row++) {
        for (std::size_t col = 0; col < sparse.grid_cols; col++) {
            const void *bytes = &count;
            REQUIRE(sm_block_at(attachment, sparse.index, row, col, &bytes) == SM_STATUS_OK);
            const bool listed =
                next < count && blocks[next].row == row && blocks[next].col == col;
            REQUIRE(bytes == (listed ? blocks[next].bytes : nullptr));
            next += listed ? 1 : 0;
        }
    }
    REQUIRE(next == count);

    const void *in_place = nullptr;
    std::size_t size = 0;
    REQUIRE(sm_base(attachment, base.index, &in_place, &size) == SM_STATUS_OK);
    std::vector<char> copy(base.bytes);
    REQUIRE(sm_to_dense(attachment, base.index, copy.data(), copy.size()) == SM_STATUS_OK);
    REQUIRE(size == base.bytes && std::memcmp(copy.data(), in_place, size) == 0);
}

std::vector<char> dense(const sm_attachment *attachment, const sm_tensor &tensor) {
    std::vector<char> bytes(tensor.bytes);
    REQUIRE(sm_to_dense(attachment, tensor.index, bytes.data(), bytes.size()) == SM_STATUS_OK);
    return bytes;
}

// The daemon is killed under a lease: what is leased stays, and the end is told at once.
void dying(sm_attachment *attachment, const sm_tensor &sparse, pid_t daemon) {
    const std::vector<char> before = dense(attachment, sparse);
    REQUIRE(kill(daemon, SIGKILL) == 0);
    std::uint64_t generation = 0;
    const auto start = Clock::now();
    REQUIRE(sm_wait(attachment, sm_generation(attachment), 30'000, &generation) ==
            SM_STATUS_UNAVAILABLE);
    while (sm_check(attachment) == SM_STATUS_OK && Clock::now() - start < std::chrono::seconds(5)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    REQUIRE(Clock::now() - start < std::chrono::seconds(5));
    REQUIRE(dense(attachment, sparse) == before);
    REQUIRE(sm_release(attachment) == SM_STATUS_OK);
    const auto asked = Clock::now();
    REQUIRE(sm_lease(attachment, &generation) == SM_STATUS_UNAVAILABLE && generation == 0);
    REQUIRE(Clock::now() - asked < std::chrono::milliseconds(100));
    REQUIRE(last_error_has("attach again"));
}

// As a program does whose daemon has gone: it tries again until there is another.
sm_attachment *attach_again(const char *path) {
    const auto start = Clock::now();
    sm_attachment *attachment = nullptr;
    while (sm_attach(path, "", "", &attachment) != SM_STATUS_OK) {
        REQUIRE(Clock::now() - start < std::chrono::seconds(60));
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return attachment;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 5) {
        std::fprintf(stderr, "usage: %s ATTACH_SOCKET TENSOR BASE_TENSOR DAEMON_PID\n", argv[0]);
        return 2;
    }
    attaching(argv[1]);
    without_an_attachment();

    sm_attachment *attachment = attach_again(argv[1]);
    sm_tensor sparse, base;
    std::uint64_t generation = 0;
    REQUIRE(sm_find_tensor(attachment, argv[2], &sparse) == SM_STATUS_OK);
    REQUIRE(sm_find_tensor(attachment, argv[3], &base) == SM_STATUS_OK);
    REQUIRE(sparse.kind == SM_KIND_SPARSE && base.kind == SM_KIND_BASE);
    without_a_lease(attachment, sparse, base);
    leasing(attachment);
    looking_up(attachment, sparse, base);
    reading(attachment, sparse, base);
    dying(attachment, sparse, std::atoi(argv[4]));
    sm_detach(attachment);

    attachment = attach_again(argv[1]);
    REQUIRE(sm_wait(attachment, 0, 60'000, &generation) == SM_STATUS_OK);
    REQUIRE(sm_lease(attachment, &generation) == SM_STATUS_OK && sm_task(attachment) != nullptr);
    sm_detach(attachment);  // With the lease.
    std::puts("errors: all as it should be");
    return 0;
}
