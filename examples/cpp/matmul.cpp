// Computes y = x . W^T of one tensor for each task that becomes active, in three ways that must
// agree: by its blocks in place in plain C++, by sm_product, and from a dense copy.
//
//   matmul ATTACH_SOCKET TENSOR [SWITCHES]
//
// Ends after so many switches (1 if it is not said), with 1 if the ways do not agree.

#include "synchromesh.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

using synchromesh::Lease;

constexpr std::size_t kBatch = 3;
constexpr int kTimeoutMs = 60'000;
// What the orders in which floats are summed up may differ by, for each unit of |x| . |W|.
constexpr double kTolerance = 1e-5;

// An element of F32 or BF16.
float element(sm_dtype dtype, const void *elements, std::size_t at) {
    if (dtype == SM_DTYPE_F32) {
        return static_cast<const float *>(elements)[at];
    }
    // BF16 is the upper half of a float.
    const std::uint32_t bits =
        static_cast<std::uint32_t>(static_cast<const std::uint16_t *>(elements)[at]) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Small whole numbers, so that sums of whole weights are exact.
std::vector<float> inputs(std::size_t columns) {
    std::vector<float> x(kBatch * columns);
    for (std::size_t i = 0; i < x.size(); i++) {
        x[i] = static_cast<float>(i % 7) - 3.0F;
    }
    return x;
}

// One block's part of y. What of the block lies beyond the tensor's edge is left out.
void add_block(const sm_tensor &tensor, const sm_block &block, const std::vector<float> &x,
               std::vector<float> &y) {
    const std::size_t rows = tensor.shape[0], columns = tensor.shape[1];
    const std::size_t row0 = block.row * tensor.block_rows, col0 = block.col * tensor.block_cols;
    const std::size_t height = std::min(tensor.block_rows, rows - row0);
    const std::size_t width = std::min(tensor.block_cols, columns - col0);
    for (std::size_t n = 0; n < kBatch; n++) {
        for (std::size_t row = 0; row < height; row++) {
            float sum = 0;
            for (std::size_t col = 0; col < width; col++) {
                sum += x[n * columns + col0 + col] *
                       element(tensor.dtype, block.bytes, row * tensor.block_cols + col);
            }
            y[n * rows + row0 + row] += sum;
        }
    }
}

std::vector<float> by_blocks(const sm_tensor &tensor, const Lease &lease,
                             const std::vector<float> &x) {
    std::vector<float> y(kBatch * tensor.shape[0]);
    for (const sm_block &block : lease.blocks(tensor)) {
        add_block(tensor, block, x, y);
    }
    return y;
}

// y from a dense copy, and how far another y may be from it at each place.
struct Expected {
    std::vector<double> y, tolerance;
};

Expected from_dense(const sm_tensor &tensor, const Lease &lease, const std::vector<float> &x) {
    const std::vector<unsigned char> dense = lease.dense(tensor);
    const std::size_t rows = tensor.shape[0], columns = tensor.shape[1];
    Expected expected{std::vector<double>(kBatch * rows), std::vector<double>(kBatch * rows)};
    for (std::size_t n = 0; n < kBatch; n++) {
        for (std::size_t row = 0; row < rows; row++) {
            for (std::size_t col = 0; col < columns; col++) {
                const double part = static_cast<double>(x[n * columns + col]) *
                                    element(tensor.dtype, dense.data(), row * columns + col);
                expected.y[n * rows + row] += part;
                expected.tolerance[n * rows + row] += std::abs(part) * kTolerance;
            }
        }
    }
    return expected;
}

struct Comparison {
    double largest = 0;
    bool agrees = true;
};

void compare(const Expected &expected, const std::vector<float> &y, Comparison &comparison) {
    for (std::size_t i = 0; i < y.size(); i++) {
        const double difference = std::abs(expected.y[i] - static_cast<double>(y[i]));
        comparison.largest = std::max(comparison.largest, difference);
        // A NaN agrees with nothing.
        comparison.agrees = comparison.agrees && difference <= expected.tolerance[i];
    }
}

// Weights of position, so that no two places can be mixed up.
double checksum(const std::vector<float> &y) {
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); i++) {
        sum += static_cast<double>(y[i]) * static_cast<double>(i % 11 + 1);
    }
    return sum;
}

// Computes on what is leased. False if the ways do not agree.
bool compute(const Lease &lease, const sm_tensor &tensor) {
    const std::vector<float> x = inputs(tensor.shape[1]);
    const std::vector<float> y = by_blocks(tensor, lease, x);
    const Expected expected = from_dense(tensor, lease, x);
    Comparison comparison;
    compare(expected, y, comparison);
    compare(expected, lease.product(tensor, x), comparison);
    std::printf("generation %llu, task %s: checksum %.10g, largest difference %.3g%s\n",
                static_cast<unsigned long long>(lease.generation), lease.task().c_str(),
                checksum(y), comparison.largest, comparison.agrees ? "" : ": MISMATCH");
    std::fflush(stdout);
    return comparison.agrees;
}

bool run(const char *path, const char *name, long switches) {
    synchromesh::Attachment attachment(path);
    const sm_tensor tensor = attachment.tensor(name);
    if (tensor.kind != SM_KIND_SPARSE ||
        (tensor.dtype != SM_DTYPE_F32 && tensor.dtype != SM_DTYPE_BF16)) {
        throw std::invalid_argument("the tensor must be cut into blocks of F32 or BF16");
    }
    bool agrees = true;
    std::uint64_t generation = 0;
    for (long done = 0; done < switches;) {
        if (!attachment.wait(generation, kTimeoutMs)) {
            throw std::runtime_error("no task became active in time");
        }
        // What is served may be later than what was waited for, or nothing any more.
        const std::optional<Lease> lease = attachment.lease_if_task();
        if (lease) {
            generation = lease->generation;
            agrees = compute(*lease, tensor) && agrees;
            done++;
        }
    }
    return agrees;
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        std::fprintf(stderr, "usage: %s ATTACH_SOCKET TENSOR [SWITCHES]\n", argv[0]);
        return 2;
    }
    try {
        return run(argv[1], argv[2], argc == 4 ? std::strtol(argv[3], nullptr, 10) : 1) ? 0 : 1;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "matmul: %s\n", error.what());
        return 1;
    }
}
