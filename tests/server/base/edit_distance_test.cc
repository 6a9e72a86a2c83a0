#include "base/edit_distance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

namespace fluoroscope {
namespace {

// The definition, as a recursion.
size_t Slow(const std::string& a, const std::string& b) {
  if (a.empty() || b.empty()) return a.size() + b.size();
  const std::string front_a = a.substr(0, a.size() - 1), front_b = b.substr(0, b.size() - 1);
  size_t least = std::min({Slow(front_a, b) + 1, Slow(a, front_b) + 1, Slow(front_a, front_b) + (a.back() == b.back() ? 0 : 1)});
  if (a.size() > 1 && b.size() > 1 && a.back() == b[b.size() - 2] && b.back() == a[a.size() - 2])
    least = std::min(least, Slow(a.substr(0, a.size() - 2), b.substr(0, b.size() - 2)) + 1);
  return least;
}

TEST(EditDistanceTest, KnownOnes) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("", "abc"), 3u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
  EXPECT_EQ(EditDistance("hook_patern", "hook_pattern"), 1u);
  EXPECT_EQ(EditDistance("hook_esrid_pre", "hook_resid_pre"), 2u);
  EXPECT_EQ(EditDistance("hook_rseid_pre", "hook_resid_pre"), 1u) << "two neighbours swapped";
  EXPECT_EQ(EditDistance("ca", "abc"), 3u) << "no part is edited twice";
}

TEST(EditDistanceTest, RandomWordsAgainstTheDefinition) {
  std::mt19937 random(3);
  const auto word = [&] {
    std::string text(random() % 6, ' ');
    for (char& letter : text) letter = static_cast<char>('a' + random() % 3);
    return text;
  };
  for (int i = 0; i < 300; ++i) {
    const std::string a = word(), b = word();
    EXPECT_EQ(EditDistance(a, b), Slow(a, b)) << a << ", " << b;
    EXPECT_EQ(EditDistance(a, b), EditDistance(b, a));
  }
}

}  // namespace
}  // namespace fluoroscope
