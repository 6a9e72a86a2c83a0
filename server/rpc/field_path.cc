#include "rpc/field_path.h"

namespace fluoroscope::rpc {

std::string FieldPath::ToString() const {
  std::string text = parent == nullptr ? "" : parent->ToString();
  if (*name == '\0') return text;
  if (!text.empty()) text += '.';
  text += name;
  if (index >= 0) absl::StrAppend(&text, "[", index, "]");
  return text;
}

}  // namespace fluoroscope::rpc
