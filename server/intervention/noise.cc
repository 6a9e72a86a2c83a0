#include "intervention/noise.h"

#include <cmath>
#include <numbers>
#include <numeric>

#include "intervention/kinds.h"

namespace fluoroscope::intervention {
namespace {

// All indices along an axis, or the chosen ones.
std::vector<int64_t> IndicesOf(const std::vector<int64_t>& chosen, int64_t size) {
  if (!chosen.empty()) return chosen;
  std::vector<int64_t> all(static_cast<size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

}  // namespace

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> c, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1,
         static_cast<uint32_t>(a)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

std::array<float, 4> FourNormals(std::array<uint32_t, 4> counter, uint64_t key) {
  const std::array<uint32_t, 4> words = Philox(counter, key);
  std::array<float, 4> out;
  for (size_t i = 0; i < 4; i += 2) {
    // In (0, 1]: the logarithm of 0 does not exist.
    const double radius = std::sqrt(-2 * std::log((words[i] + 1.0) / 4294967296.0));
    const double angle = 2 * std::numbers::pi * (words[i + 1] / 4294967296.0);
    out[i] = static_cast<float>(radius * std::cos(angle));
    out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return out;
}

at::Tensor Changed(const Noise& noise, const KindContext& context, const at::Tensor& own) {
  // Drawn on the CPU whatever the device, so that devices agree. The places are walked as [position, head, unit].
  const Region& region = context.region;
  const bool has_heads = region.head_axis >= 0;
  const std::vector<int64_t> heads = has_heads ? IndicesOf(region.heads, context.whole.size(region.head_axis)) : std::vector<int64_t>{0};
  const std::vector<int64_t> units = IndicesOf(region.units, context.whole.size(-1));
  const auto size = [](const auto& list) { return static_cast<int64_t>(list.size()); };
  at::Tensor drawn = at::empty({size(context.edit.alive), size(heads), size(units)}, at::kFloat);
  float* out = drawn.mutable_data_ptr<float>();
  for (const int64_t index : context.edit.alive) {
    const auto position = static_cast<uint32_t>(noise.positions[static_cast<size_t>(index)]);
    for (const int64_t head : heads) {
      const uint32_t place = noise.place | static_cast<uint32_t>(head) << 20;
      int64_t block = -1;
      std::array<float, 4> normals{};
      for (const int64_t unit : units) {
        if (unit / 4 != block) {
          block = unit / 4;
          normals = FourNormals({static_cast<uint32_t>(block), position, place, noise.row}, noise.seed);
        }
        *out++ = normals[static_cast<size_t>(unit % 4)];
      }
    }
  }
  if (!has_heads) drawn = drawn.squeeze(1);
  if (has_heads && region.head_axis < region.position_axis) drawn = drawn.transpose(0, 1);  // [head, query, key]
  return own + drawn.to(own.device()) * noise.stddev;
}

}  // namespace fluoroscope::intervention
