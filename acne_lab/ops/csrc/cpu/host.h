// What the operators share on torch's side.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <optional>
#include <string_view>
#include <vector>

#include "cpu/kernels.h"

namespace acne_lab {

// Elements that are worth a thread.
constexpr int64_t kGrain = 32768;

// The kernels of a type for this machine. ValueError if there are none.
const Kernels& kernels(at::ScalarType type);

// The type that `type` is computed in.
inline at::ScalarType sum_type(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

// `x` itself if its memory has neither gaps nor overlaps, else a copy that has not.
inline at::Tensor dense(const at::Tensor& x) {
  return x.is_non_overlapping_and_dense() ? x : x.contiguous(x.suggest_memory_format());
}

// `x` in the memory order of the dense tensor `like`.
inline at::Tensor ordered_like(const at::Tensor& x, const at::Tensor& like) {
  TORCH_CHECK_VALUE(x.sizes() == like.sizes() && x.scalar_type() == like.scalar_type(),
                    "gradients must have the shape and the type of what was saved");
  return x.strides() == like.strides() ? x : at::empty_like(like).copy_(x);
}

// A limit as the 16-bit types hold it, so that a limited output can be recognised by comparison.
inline double rounded(double clamp, at::ScalarType type) {
  if (type == at::kHalf) return double(float(c10::Half(float(clamp))));
  if (type == at::kBFloat16) return double(float(c10::BFloat16(float(clamp))));
  return clamp;
}

inline bool is_channels_last(const at::Tensor& x) {
  return x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
}

// `x` itself if rows (channels_last: whole rows of pixels) lie dense in memory, whatever is between them.
at::Tensor with_dense_rows(const at::Tensor& x);

Planes planes_of(const at::Tensor& x);

// A filter as the kernels want it, with the memory that it points to.
struct PreparedFilter {
  PreparedFilter(const at::Tensor& x, const at::Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                 at::IntArrayRef padding, bool flip_filter, double gain);
  PreparedFilter(const PreparedFilter&) = delete;

  Filter filter;

 private:
  at::Tensor column_, rows_;
};

// Working memory of one thread.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : lines_(size_t(bytes / sizeof(Line) + 1)) {}
  void* data() { return lines_.data(); }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<Line> lines_;
};

}  // namespace acne_lab
