#include "client/cli/list_option.h"

namespace fluoroscope::cli {

void AddListOption(CLI::App& command, const char* name, std::string* to, const char* help) {
  const auto not_empty = [](std::string& text) {
    return text.empty() ? std::string("an empty list is not a list of numbers and ranges such as 0,2,5-9,-1; without the option it is all")
                        : std::string();
  };
  command.add_option(name, *to, help)->check(CLI::Validator(not_empty, ""))->option_text("LIST");
}

}  // namespace fluoroscope::cli
