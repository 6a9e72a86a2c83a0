#include "engine/waves.h"

#include <algorithm>
#include <string>

namespace fluoroscope::engine {

absl::StatusOr<std::vector<std::vector<size_t>>> Waves(const std::vector<std::set<uint32_t>>& sources) {
  std::vector<std::vector<uint32_t>> readers(sources.size());
  std::vector<size_t> waiting_for(sources.size());
  std::vector<size_t> wave;
  for (size_t row = 0; row < sources.size(); ++row) {
    waiting_for[row] = sources[row].size();
    for (uint32_t source : sources[row]) readers[source].push_back(static_cast<uint32_t>(row));
    if (sources[row].empty()) wave.push_back(row);
  }
  std::vector<std::vector<size_t>> waves;
  size_t placed = 0;
  while (!wave.empty()) {
    std::vector<size_t> next;
    for (size_t row : wave)
      for (uint32_t reader : readers[row])
        if (--waiting_for[reader] == 0) next.push_back(reader);
    std::sort(next.begin(), next.end());
    placed += wave.size();
    waves.push_back(std::move(wave));
    wave = std::move(next);
  }
  if (placed == sources.size()) return waves;
  std::string rows;
  for (size_t row = 0; row < sources.size(); ++row)
    if (waiting_for[row] > 0) rows += (rows.empty() ? "" : ", ") + std::to_string(row);
  return absl::InvalidArgumentError("interventions and metrics read other rows in a circle, among rows " + rows +
                                    "; a source must be able to run before its targets");
}

}  // namespace fluoroscope::engine
