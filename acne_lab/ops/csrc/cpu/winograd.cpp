#include <torch/library.h>

#include <array>

#include "cpu/host.h"

namespace acne_lab {
namespace {

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the work is cut into tasks; no result depends on it.
void cut(Winograd& c) {
  // Every task reads all taps of its channels, and from far away where channels are many: the more of them, the more
  // tiles have to share that. With few channels, all that belongs to a task's tiles stays in the core's own cache.
  const int64_t most = kWinogradTiles * std::max<int64_t>(4, std::min(c.in, c.out) / 32);
  const int64_t fewest = std::min<int64_t>(most, 8 * kWinogradTiles), threads = at::get_num_threads();
  const int64_t tiles = c.num_tiles(), slices = c.padded_out() / kWinogradChannels;
  int64_t parts = divided_up(divided_up(tiles, most), threads) * threads;
  parts = std::min(parts, std::max<int64_t>(1, tiles / fewest));
  c.tiles_per_task = divided_up(divided_up(tiles, parts), kWinogradTiles) * kWinogradTiles;
  // Where these parts are not enough for all threads, channels are shared out too, and tiles are read more than once.
  c.channels_per_task = divided_up(slices, std::min(slices, divided_up(threads, parts))) * kWinogradChannels;
}

at::Tensor winograd_conv2d(const at::Tensor& input, const at::Tensor& input_weight, bool transposed) {
  TORCH_CHECK_VALUE(input.scalar_type() == at::kFloat && input_weight.scalar_type() == at::kFloat,
                    "float32 is needed, not ", input.scalar_type(), " and ", input_weight.scalar_type());
  const int64_t in = input.size(1), out = input_weight.size(transposed ? 1 : 0);
  const std::array<int64_t, 4> needed = {transposed ? in : out, transposed ? out : in, 3, 3};
  TORCH_CHECK_VALUE(input_weight.sizes() == at::IntArrayRef(needed), "weight must have shape ",
                    at::IntArrayRef(needed), ", not ", input_weight.sizes());
  constexpr auto format = at::MemoryFormat::ChannelsLast;
  const at::Tensor x = input.contiguous(format), weight = input_weight.contiguous(format);
  at::Tensor y = at::empty({x.size(0), out, x.size(2), x.size(3)}, x.options().memory_format(format));
  if (y.numel() == 0) return y;

  Winograd c{};
  c.y = y.mutable_data_ptr<float>();
  c.x = x.const_data_ptr<float>();
  c.weight = weight.const_data_ptr<float>();
  c.transposed = transposed;
  c.n = x.size(0);
  c.height = x.size(2);
  c.width = x.size(3);
  c.in = in;
  c.out = out;
  cut(c);
  const at::Tensor taps = at::empty({c.taps_size()}, x.options());
  c.taps = taps.mutable_data_ptr<float>();

  const Kernels& k = kernels(at::kFloat);
  at::parallel_for(0, c.padded_out() / kWinogradChannels, 1,
                   [&](int64_t begin, int64_t end) { k.winograd_taps(c, begin, end); });
  at::parallel_for(0, c.num_tasks(), 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({c.scratch_size()}, x.options());
    k.winograd(c, begin, end, scratch.mutable_data_ptr<float>());
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(acne_lab, CPU, m) { m.impl("cpu_winograd_conv2d", winograd_conv2d); }

}  // namespace acne_lab
