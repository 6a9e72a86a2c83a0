#include "model/log_sum.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/avx512.h"
#include "model/line_gradients.h"
#include "model/line_kernels.h"

namespace fluoroscope::model {

#if defined(__x86_64__)
namespace {

using namespace avx512;

constexpr int64_t kPart = 256;  // numbers that are added in float32, in 16 lanes

FS_AVX512 float LogSumOf(const float* x, int64_t n) {
  __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __mmask16 no_number = 0;
  for (int64_t c = 0; c < n; c += kLanes) {
    const __m512 next = _mm512_mask_loadu_ps(most, MaskOf(n - c), x + c);
    no_number |= _mm512_cmp_ps_mask(next, next, _CMP_UNORD_Q);
    most = _mm512_max_ps(most, next);
  }
  if (no_number != 0) return std::numeric_limits<float>::quiet_NaN();
  const float largest = _mm512_reduce_max_ps(most);
  if (std::isinf(largest)) return largest;
  __m512d total = _mm512_setzero_pd();
  for (int64_t begin = 0; begin < n; begin += kPart) {
    __m512 part = _mm512_setzero_ps();
    for (int64_t c = begin; c < std::min(begin + kPart, n); c += kLanes) {
      const __mmask16 mask = MaskOf(n - c);
      const __m512 power = Exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + c), _mm512_set1_ps(largest)));
      part = _mm512_mask_add_ps(part, mask, part, power);
    }
    const __m256 low = _mm512_castps512_ps256(part), high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(part), 1));
    total = _mm512_add_pd(total, _mm512_add_pd(_mm512_cvtps_pd(low), _mm512_cvtps_pd(high)));
  }
  return static_cast<float>(largest + std::log(_mm512_reduce_add_pd(total)));
}

}  // namespace

at::Tensor LogSumExp(const at::Tensor& x) {
  if (!HasLineKernels(x) || IsRecorded(x)) return at::logsumexp(x, -1, /*keepdim=*/true);
  const int64_t lines = x.size(0);
  at::Tensor sums = at::empty({lines, 1}, x.options());
  const float* const data = x.const_data_ptr<float>();
  float* const out = sums.mutable_data_ptr<float>();
  at::parallel_for(0, lines, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = LogSumOf(data + i * x.stride(0), x.size(1));
  });
  return sums;
}

#else

at::Tensor LogSumExp(const at::Tensor& x) { return at::logsumexp(x, -1, /*keepdim=*/true); }

#endif

int64_t LogSumExpBytes(at::Device device) { return HasLineKernels(device, at::kFloat) ? 0 : static_cast<int64_t>(sizeof(float)); }

}  // namespace fluoroscope::model
