// Tensors that a checkpoint has and no reader asked for: config.json contradicts them.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "model/families/family.h"

namespace fluoroscope::model {

// A tensor that is not read is a part of the model that would be left out without a word: biases that config.json denies, layers behind its
// last, adapters, a head of another task. Its numbers would be wrong and look right, so such a checkpoint is refused; transformers warns
// and goes on. `names`: all tensors of the checkpoint. `taken`: those that `family` read. INVALID_ARGUMENT, with the first few
// names and how many there are, unless all others are the family's buffers behind `prefix`.
absl::Status CheckAllRead(const std::vector<std::string>& names, const std::set<std::string>& taken, const Family& family,
                          std::string_view prefix);

}  // namespace fluoroscope::model
