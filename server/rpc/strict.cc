#include "rpc/strict.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/unknown_field_set.h>

#include <string>
#include <vector>

#include "base/status_macros.h"
#include "rpc/field_path.h"

namespace fluoroscope::rpc {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;

absl::Status UnknownField(const Message& message, const FieldPath& path) {
  const std::string where = path.ToString();
  return absl::InvalidArgumentError(absl::StrCat(where.empty() ? "the request" : where, " has the unknown field number ",
                                                 message.GetReflection()->GetUnknownFields(message).field(0).number(), " (message ",
                                                 message.GetDescriptor()->full_name(),
                                                 "); this server does not know it, and ignoring it could give a wrong answer"));
}

std::string Choices(const OneofDescriptor& oneof) {
  std::string text;
  for (int i = 0; i < oneof.field_count(); ++i) absl::StrAppend(&text, i == 0 ? "" : ", ", oneof.field(i)->name());
  return text;
}

std::string Choices(const EnumDescriptor& type) {
  std::string text;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) absl::StrAppend(&text, text.empty() ? "" : ", ", type.value(i)->name());
  }
  return text;
}

absl::Status CheckEnum(int value, const EnumDescriptor& type, const FieldPath& path) {
  if (value != 0 && type.FindValueByNumber(value) != nullptr) return absl::OkStatus();
  return InvalidAt(path, "is ", value, "; it must be one of ", Choices(type), ", or absent");
}

absl::Status Walk(const Message& message, const FieldPath& path);

absl::Status WalkField(const Message& message, const FieldDescriptor& field, const FieldPath& parent) {
  const auto& reflection = *message.GetReflection();
  const int count = field.is_repeated() ? reflection.FieldSize(message, &field) : 1;
  for (int i = 0; i < count; ++i) {
    const FieldPath path{&parent, field.name().c_str(), field.is_repeated() ? i : -1};
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        FS_RETURN_IF_ERROR(
            Walk(field.is_repeated() ? reflection.GetRepeatedMessage(message, &field, i) : reflection.GetMessage(message, &field), path));
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        FS_RETURN_IF_ERROR(
            CheckEnum(field.is_repeated() ? reflection.GetRepeatedEnumValue(message, &field, i) : reflection.GetEnumValue(message, &field),
                      *field.enum_type(), path));
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        if (field.real_containing_oneof() != nullptr && !reflection.GetBool(message, &field)) {
          return InvalidAt(path, "must be true when it is given");
        }
        return absl::OkStatus();
      default:
        return absl::OkStatus();  // plain values, however many
    }
  }
  return absl::OkStatus();
}

absl::Status Walk(const Message& message, const FieldPath& path) {
  const auto& reflection = *message.GetReflection();
  if (!reflection.GetUnknownFields(message).empty()) return UnknownField(message, path);
  const auto& descriptor = *message.GetDescriptor();
  for (int i = 0; i < descriptor.real_oneof_decl_count(); ++i) {
    const OneofDescriptor& oneof = *descriptor.oneof_decl(i);
    if (!reflection.HasOneof(message, &oneof)) {
      return InvalidAt({&path, oneof.name().c_str()}, "is empty: give one of ", Choices(oneof));
    }
  }
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) FS_RETURN_IF_ERROR(WalkField(message, *field, path));
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckStrict(const Message& request) { return Walk(request, FieldPath{}); }

}  // namespace fluoroscope::rpc
