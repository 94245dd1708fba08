// The C interface with owners and exceptions, as a program in C++ may want it. To be copied.

#pragma once

#include <synchromesh.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace synchromesh {

// A status other than success, with its text.
class Error : public std::runtime_error {
public:
    explicit Error(sm_status status) : std::runtime_error(sm_last_error()), status(status) {}

    const sm_status status;
};

inline void check(sm_status status) {
    if (status != SM_STATUS_OK) {
        throw Error(status);
    }
}

// What the session serves, pinned for as long as this lives. It must not outlive its Attachment.
class Lease {
public:
    explicit Lease(sm_attachment *attachment) : attachment_(attachment) {
        check(sm_lease(attachment, &generation));
    }
    ~Lease() {
        if (attachment_ != nullptr) {
            sm_release(attachment_);
        }
    }
    Lease(Lease &&other) noexcept
        : generation(other.generation), attachment_(std::exchange(other.attachment_, nullptr)) {}
    Lease &operator=(Lease &&) = delete;

    std::string task() const { return sm_task(attachment_); }

    std::vector<sm_block> blocks(const sm_tensor &tensor) const {
        std::vector<sm_block> blocks(tensor.grid_rows * tensor.grid_cols);
        std::size_t count = 0;
        check(sm_blocks(attachment_, tensor.index, blocks.data(), blocks.size(), &count));
        blocks.resize(count);
        return blocks;
    }

    std::vector<unsigned char> dense(const sm_tensor &tensor) const {
        std::vector<unsigned char> bytes(tensor.bytes);
        check(sm_to_dense(attachment_, tensor.index, bytes.data(), bytes.size()));
        return bytes;
    }

    // y = x . W^T, of as many rows as x has.
    std::vector<float> product(const sm_tensor &tensor, const std::vector<float> &x) const {
        if (tensor.kind != SM_KIND_SPARSE) {
            throw std::invalid_argument("the tensor is not cut into blocks");
        }
        // A tensor that is cut into blocks has rows and columns, neither of them 0.
        if (x.size() % tensor.shape[1] != 0) {
            throw std::invalid_argument("x is not made of whole rows");
        }
        const std::size_t batch = x.size() / tensor.shape[1];
        std::vector<float> y(batch * tensor.shape[0]);
        check(sm_product(attachment_, tensor.index, x.data(), batch, y.data()));
        return y;
    }

    std::uint64_t generation = 0;

private:
    sm_attachment *attachment_;
};

// Membership in a session.
class Attachment {
public:
    explicit Attachment(const char *path, const char *model = "", const char *session = "") {
        sm_attachment *attachment = nullptr;
        check(sm_attach(path, model, session, &attachment));
        attachment_.reset(attachment);
    }

    sm_attachment *get() const { return attachment_.get(); }

    sm_tensor tensor(const char *name) const {
        sm_tensor tensor;
        check(sm_find_tensor(get(), name, &tensor));
        return tensor;
    }

    // A generation beyond another in which a task is served, if one comes in time. A lease that is
    // taken then may be of a later one: go on from its generation.
    std::optional<std::uint64_t> wait(std::uint64_t beyond, int timeout_ms) {
        std::uint64_t generation = 0;
        const sm_status status = sm_wait(get(), beyond, timeout_ms, &generation);
        if (status == SM_STATUS_DEADLINE_EXCEEDED) {
            return std::nullopt;
        }
        check(status);
        return generation;
    }

    Lease lease() { return Lease(get()); }

    // The same; nothing if the session has no task at the moment: wait again.
    std::optional<Lease> lease_if_task() {
        try {
            return Lease(get());
        } catch (const Error &error) {
            if (error.status == SM_STATUS_FAILED_PRECONDITION) {
                return std::nullopt;
            }
            throw;
        }
    }

private:
    struct Detach {
        void operator()(sm_attachment *attachment) const { sm_detach(attachment); }
    };
    std::unique_ptr<sm_attachment, Detach> attachment_;
};

}  // namespace synchromesh
