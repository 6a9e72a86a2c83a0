#include "model/largest.h"

#include <ATen/Parallel.h>

#include <vector>

#include "model/avx512.h"
#include "model/line_kernels.h"

namespace fluoroscope::model {
namespace {

std::pair<at::Tensor, at::Tensor> ByLibrary(const at::Tensor& x, int64_t k) {
  auto [values, indices] = at::topk(x, k, -1);
  return {std::move(values), std::move(indices)};
}

}  // namespace

#if defined(__x86_64__)
namespace {

using namespace avx512;

// More are put in their place one by one too often.
constexpr int64_t kMostByInsertion = 64;
constexpr int64_t kStep = 4 * kLanes;

// The best numbers so far of a line, in order.
class Best {
 public:
  Best(int64_t k, float* values, int64_t* indices) : k_(k), values_(values), indices_(indices) {}

  bool full() const { return count_ == k_; }
  float last() const { return values_[k_ - 1]; }  // once full

  // Numbers come in the line's order, so those that are equal stay in it.
  void Offer(float value, int64_t index) {
    if (full() && value <= last()) return;
    int64_t at = full() ? k_ - 1 : count_++;
    for (; at > 0 && values_[at - 1] < value; --at) {
      values_[at] = values_[at - 1];
      indices_[at] = indices_[at - 1];
    }
    values_[at] = value;
    indices_[at] = index;
  }

 private:
  const int64_t k_;
  int64_t count_ = 0;
  float* const values_;
  int64_t* const indices_;
};

// False when there is a NaN.
FS_AVX512 bool LargestOf(const float* x, int64_t n, int64_t k, float* values, int64_t* indices) {
  Best best(k, values, indices);
  int64_t c = 0;
  for (; c < k; ++c) {
    if (x[c] != x[c]) return false;
    best.Offer(x[c], c);
  }
  while (c < n) {
    const __m512 last = _mm512_set1_ps(best.last());
    // Larger than the last of the best, or not a number.
    uint64_t found = 0;
    for (int64_t v = 0; v < kStep && c + v < n; v += kLanes) {
      const __mmask16 mask = MaskOf(n - c - v);
      found |= uint64_t{_mm512_mask_cmp_ps_mask(mask, _mm512_maskz_loadu_ps(mask, x + c + v), last, _CMP_NLE_UQ)} << v;
    }
    for (; found != 0; found &= found - 1) {
      const int64_t index = c + __builtin_ctzll(found);
      if (x[index] != x[index]) return false;
      best.Offer(x[index], index);
    }
    c += kStep;
  }
  return true;
}

}  // namespace

std::pair<at::Tensor, at::Tensor> Largest(const at::Tensor& x, int64_t k) {
  if (!HasLineKernels(x) || k < 1 || k > kMostByInsertion || k > x.size(1)) return ByLibrary(x, k);
  const int64_t lines = x.size(0);
  at::Tensor values = at::empty({lines, k}, x.options()), indices = at::empty({lines, k}, x.options().dtype(at::kLong));
  const float* const data = x.const_data_ptr<float>();
  float* const out = values.mutable_data_ptr<float>();
  int64_t* const where = indices.mutable_data_ptr<int64_t>();
  std::vector<char> has_nan(static_cast<size_t>(lines));  // not bool: threads write to neighbours
  at::parallel_for(0, lines, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      has_nan[static_cast<size_t>(i)] = !LargestOf(data + i * x.stride(0), x.size(1), k, out + i * k, where + i * k);
  });
  for (int64_t i = 0; i < lines; ++i) {
    if (has_nan[static_cast<size_t>(i)] == 0) continue;
    const auto [line_values, line_indices] = ByLibrary(x[i], k);
    values[i].copy_(line_values);
    indices[i].copy_(line_indices);
  }
  return {std::move(values), std::move(indices)};
}

#else

std::pair<at::Tensor, at::Tensor> Largest(const at::Tensor& x, int64_t k) { return ByLibrary(x, k); }

#endif

}  // namespace fluoroscope::model
