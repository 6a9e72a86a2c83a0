// docs/hooks.md is written from the table of sites. When the table changes, run this test once with FLUOROSCOPE_WRITE_DOCS=1.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "model/sites.h"

namespace fluoroscope::model {
namespace {

std::string Page() {
  std::ostringstream page;
  page
      << "# Hook points\n\n"
         "Generated from `server/model/sites.cc`; do not edit. A hook point is an equation: its name means the tensor on its line, which "
         "is the\n"
         "tensor TransformerLens means (models without weight processing). Sites of a block have `blocks.{layer}.` in front. `kv_head` "
         "axes keep\n"
         "the model's own number of key-value heads. What a model does not have is refused with the reason: learned positions, rotation "
         "and gated\n"
         "MLPs belong to some families only; `fluoroscope hooks MODEL` shows what a loaded model offers. Where the last column says yes, a "
         "metric's\n"
         "gradient can be captured (`grad_of` in Python).\n\n"
         "| hook point | shape of one row | equals | edit | gradient |\n|---|---|---|---|---|\n";
  for (const SiteSpec& spec : Sites()) {
    std::string shape, equation;
    for (Axis axis : spec.axes) shape += (shape.empty() ? "" : ", ") + (axis == Axis::kOne ? "1" : std::string(NameOf(axis)));
    for (char c : spec.equation) equation += c == '*' ? std::string("\\*") : std::string(1, c);
    page << "| `" << (spec.in_block ? "blocks.{layer}." : "") << spec.name << "` | [" << shape << "] | " << equation << " | "
         << (spec.editable ? "yes" : "read only") << " | " << (HasGradient(spec.site) ? "yes" : "no") << " |\n";
  }
  return page.str();
}

TEST(HooksPageTest, SaysWhatTheTableSays) {
  const std::string path = FLUOROSCOPE_SOURCE_DIR "/docs/hooks.md";
  if (std::getenv("FLUOROSCOPE_WRITE_DOCS") != nullptr) std::ofstream(path) << Page();
  std::ostringstream found;
  found << std::ifstream(path).rdbuf();
  EXPECT_EQ(found.str(), Page());
}

// The table is indexed by Site; a line in the wrong place would give every later site a wrong name.
TEST(SitesTest, EveryLineIsInItsPlace) {
  for (size_t i = 0; i < Sites().size(); ++i) EXPECT_EQ(static_cast<size_t>(Sites()[i].site), i) << Sites()[i].name;
  EXPECT_EQ(FullName(Site::kRotK, 5), "blocks.5.attn.hook_rot_k");
  EXPECT_EQ(FullName(Site::kLnFinalScale, 0), "ln_final.hook_scale");
}

}  // namespace
}  // namespace fluoroscope::model
