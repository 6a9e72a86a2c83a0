#include "model/rotary.h"

#include <cmath>
#include <numbers>

#include "model/line_gradients.h"

namespace fluoroscope::model {
namespace {

// The frequency rescaling of Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between interpolated.
at::Tensor ScaleLlama3(const at::Tensor& frequency, const Rotary& rotary) {
  const double longest = rotary.original_context / rotary.low_frequency;
  const double shortest = rotary.original_context / rotary.high_frequency;
  const at::Tensor wavelength = 2.0 * std::numbers::pi / frequency;
  const at::Tensor divided = at::where(wavelength > longest, frequency / rotary.factor, frequency);
  const at::Tensor smooth = (rotary.original_context / wavelength - rotary.low_frequency) / (rotary.high_frequency - rotary.low_frequency);
  const at::Tensor smoothed = (1.0 - smooth) * divided / rotary.factor + smooth * divided;
  const at::Tensor between = at::logical_and(wavelength >= shortest, wavelength <= longest);
  return at::where(between, smoothed, divided);
}

}  // namespace

std::pair<at::Tensor, at::Tensor> RotaryTables(const Architecture& arch, at::ScalarType dtype, at::Device device) {
  const at::TensorOptions f32 = at::TensorOptions().dtype(at::kFloat).device(device);
  const at::Tensor exponent = at::arange(0, arch.d_head, 2, f32) / static_cast<double>(arch.d_head);
  at::Tensor frequency = 1.0 / at::pow(at::Scalar(static_cast<float>(arch.rotary.theta)), exponent);
  switch (arch.rotary.scaling) {
    case Rotary::Scaling::kNone:
      break;
    case Rotary::Scaling::kLinear:
      frequency = frequency / arch.rotary.factor;
      break;
    case Rotary::Scaling::kLlama3:
      frequency = ScaleLlama3(frequency, arch.rotary);
      break;
  }
  const at::Tensor angle = at::outer(at::arange(arch.context, f32), frequency);
  return {angle.cos().to(dtype), angle.sin().to(dtype)};
}

at::Tensor Rotate(const at::Tensor& x, const Angles& angles) {
  if (HasLineKernels(x) && angles.cos.scalar_type() == at::kFloat)
    return IsRecorded(x) ? RotateLinesWithGradient(x, angles) : RotateLines(x, angles);
  const int64_t half = x.size(-1) / 2;
  const at::Tensor first = x.narrow(-1, 0, half);
  const at::Tensor second = x.narrow(-1, half, half);
  // Out of place, so that gradients flow.
  return at::cat({at::addcmul(first * angles.cos, second, angles.sin, -1), at::addcmul(second * angles.cos, first, angles.sin)}, -1);
}

}  // namespace fluoroscope::model
