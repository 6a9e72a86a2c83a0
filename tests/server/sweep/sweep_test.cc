// The planner never changes a value: every cell of every grid equals the slow, obvious way, one whole forward with one patch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "obs/metrics.h"
#include "sweep/sweep_run.h"
#include "tests/server/engine/run_request.h"
#include "tests/server/model/tiny_model.h"

namespace fluoroscope::sweep {
namespace {

using api::SweepAxis;
using engine::RandomIds;

constexpr int64_t kRight = 3, kWrong = 7;

class SweepSinkForTest final : public api::SweepSink {
 public:
  bool Push(api::SweepPart part) override {
    if (auto* reference = std::get_if<api::SweepReference>(&part)) references.push_back(*reference);
    if (auto* cells = std::get_if<api::SweepCells>(&part)) {
      const size_t metrics = cells->values.size() / cells->cells.size();
      for (size_t i = 0; i < cells->cells.size(); ++i) {
        const auto at = cells->values.begin() + static_cast<int64_t>(i * metrics);
        EXPECT_TRUE(values.try_emplace({cells->pair, cells->cells[i]}, at, at + static_cast<int64_t>(metrics)).second)
            << "a cell came twice";
      }
    }
    if (auto* end = std::get_if<api::SweepSummary>(&part)) summary = *end;
    return true;
  }
  void OnDrain(std::function<void()>) override {}
  void Finish(absl::Status s) override { status = std::move(s); }

  std::map<std::pair<uint32_t, uint32_t>, std::vector<double>> values;
  std::vector<api::SweepReference> references;
  api::SweepSummary summary;
  absl::Status status = absl::UnknownError("not finished");
};

class SweepTest : public testing::TestWithParam<std::shared_ptr<const model::Model> (*)(at::Device)> {
 protected:
  void SetUp() override {
    offered_ = engine::Offer(GetParam()(at::kCPU));
    at::manual_seed(5);
  }
  const model::Architecture& arch() const { return offered_->model->arch; }

  static run::MetricPlan Metric(const std::string& name, int64_t position) {
    return {name, {position}, intervention::LogitDifference{{kRight}, {kWrong}}};
  }

  // Two random prompts that share `common` tokens at the front and then differ at every second position.
  Pair RandomPair(int64_t length, int64_t common, int64_t metric_position) const {
    Pair pair;
    pair.base_ids = RandomIds(arch().vocabulary, length);
    pair.source_ids = pair.base_ids;
    for (int64_t p = common; p < length; p += 2) {
      int64_t& id = pair.source_ids[static_cast<size_t>(p)];
      id = (id + 1 + p) % arch().vocabulary;
    }
    pair.source_of.resize(static_cast<size_t>(length));
    std::iota(pair.source_of.begin(), pair.source_of.end(), 0);
    for (int64_t p = 0; p < length; ++p) pair.groups.push_back({p});
    pair.base_metrics = {Metric("end", length - 1), Metric("before", metric_position)};
    pair.source_metrics = pair.base_metrics;
    return pair;
  }

  Grid GridOver(std::vector<SweepAxis> axes, model::Site site) const {
    Grid grid;
    grid.axes = std::move(axes);
    grid.sites = {site};
    grid.layers.resize(static_cast<size_t>(arch().layers));
    std::iota(grid.layers.begin(), grid.layers.end(), 0);
    grid.model_layers = arch().layers;
    return grid;
  }

  template <typename Plan>  // SweepPlan or Pieces
  std::shared_ptr<SweepSinkForTest> Run(Plan plan) const {
    static obs::Metrics metrics;
    api::SweepHeader header;
    header.metrics = {"end", "before"};
    auto sink = std::make_shared<SweepSinkForTest>();
    SweepRun run(std::move(plan), header, {}, sink, metrics, std::chrono::steady_clock::now());
    while (run.Step() != sched::Work::Progress::kDone) {
    }
    return sink;
  }

  // All pairs of heads at hook_z.
  SweepPlan HeadPairs(std::vector<Pair> pairs) const {
    SweepPlan plan{offered_->model,
                   GridOver({SweepAxis::kLayer, SweepAxis::kHead, SweepAxis::kSecondLayer, SweepAxis::kSecondHead}, model::Site::kZ),
                   api::SweepCell::kPatch, std::move(pairs)};
    plan.grid.heads.resize(static_cast<size_t>(arch().heads));
    std::iota(plan.grid.heads.begin(), plan.grid.heads.end(), 0);
    plan.grid.second_layers = plan.grid.layers;
    plan.grid.second_heads = plan.grid.heads;
    for (Pair& pair : plan.pairs) {
      pair.groups.assign(1, std::vector<int64_t>());
      pair.groups[0].resize(pair.base_ids.size());
      std::iota(pair.groups[0].begin(), pair.groups[0].end(), 0);
    }
    return plan;
  }

  // One whole forward with the cell's change.
  std::vector<double> SlowCell(const Pair& pair, const CellChange& change) const {
    api::ForwardRequest request;
    request.prompts = {{pair.base_ids, api::Bos::kDefault, false}, {pair.source_ids, api::Bos::kDefault, false}};
    api::Positions target, source;
    for (int64_t p : pair.groups[change.group])
      if (pair.source_of[static_cast<size_t>(p)] >= 0) {
        target.push_back(p);
        source.push_back(pair.source_of[static_cast<size_t>(p)]);
      }
    for (size_t i = 0; i < change.layers.size() && !target.empty(); ++i) {
      api::Intervention copy;
      copy.select.sites = {model::FullName(change.site, change.layers[i])};
      copy.select.rows = {0};
      copy.select.heads.assign(change.HeadsIn(i).begin(), change.HeadsIn(i).end());
      copy.select.positions = target;
      copy.kind = api::CopyFromRow{1, source};
      request.interventions.push_back(copy);
    }
    for (const run::MetricPlan& metric : pair.base_metrics) {
      api::Metric m;
      m.name = metric.name;
      m.rows = {0};
      m.positions = api::Positions{metric.positions.front()};
      m.kind = api::LogitDifference{{kRight}, {kWrong}};
      request.metrics.push_back(m);
    }
    const auto sink = engine::RunRequest(*offered_, request);
    EXPECT_TRUE(sink->status.ok()) << sink->status;
    std::vector<double> values;
    for (const api::MetricValue& value : sink->summary.metrics) values.push_back(value.value);
    return values;
  }

  void ExpectExact(const SweepPlan& plan) const {
    const auto sink = Run(plan);
    ASSERT_TRUE(sink->status.ok()) << sink->status;
    ASSERT_EQ(sink->values.size(), plan.cells());
    EXPECT_EQ(sink->references.size(), plan.pairs.size());
    for (const auto& [key, values] : sink->values) {
      const CellChange change = plan.grid.At(key.second);
      const std::vector<double> slow = SlowCell(plan.pairs[key.first], change);
      ASSERT_EQ(slow.size(), values.size());
      for (size_t i = 0; i < slow.size(); ++i)
        EXPECT_NEAR(values[i], slow[i], 1e-5) << model::FullName(change.site, change.layers.front()) << " pair " << key.first << " group "
                                              << change.group << " metric " << i;
    }
  }

  std::unique_ptr<engine::LoadedModel> offered_;
};

// Every editable site of the blocks, over layers and positions, two pairs of different lengths at once.
TEST_P(SweepTest, EverySiteByLayerAndPosition) {
  for (const model::SiteSpec& spec : model::Sites()) {
    if (!spec.in_block || !spec.editable || model::Unavailable(spec.site, arch())) continue;
    SweepPlan plan{offered_->model, GridOver({SweepAxis::kLayer, SweepAxis::kPosition}, spec.site), api::SweepCell::kPatch, {}};
    plan.pairs = {RandomPair(7, 3, 4), RandomPair(7, 0, 5)};
    plan.grid.groups = 7;
    ExpectExact(plan);
  }
}

TEST_P(SweepTest, EveryHeadSiteByLayerAndHead) {
  for (const model::SiteSpec& spec : model::Sites()) {
    const int axis = model::HeadAxis(spec);
    if (!spec.in_block || !spec.editable || axis < 0 || model::Unavailable(spec.site, arch())) continue;
    SweepPlan plan{offered_->model, GridOver({SweepAxis::kHead, SweepAxis::kLayer}, spec.site), api::SweepCell::kPatch, {}};
    plan.pairs = {RandomPair(6, 2, 1)};  // its second metric lies in the shared front
    std::vector<int64_t> all(6);
    std::iota(all.begin(), all.end(), 0);
    plan.pairs[0].groups = {all};
    plan.grid.heads.resize(static_cast<size_t>(model::SizeOf(spec.axes[static_cast<size_t>(axis)], arch())));
    std::iota(plan.grid.heads.begin(), plan.grid.heads.end(), 0);
    ExpectExact(plan);
  }
}

// Windows of layers, groups of positions, positions that map to others, in prompts of unequal length.
TEST_P(SweepTest, WindowsGroupsAndMaps) {
  SweepPlan plan{offered_->model, GridOver({SweepAxis::kLayer, SweepAxis::kPosition}, model::Site::kMlpOut), api::SweepCell::kPatch, {}};
  plan.grid.window = 2;
  plan.grid.groups = 3;
  Pair pair = RandomPair(9, 4, 6);
  pair.groups = {{0, 1}, {4, 7}, {2, 5, 8}};
  pair.source_ids = RandomIds(arch().vocabulary, 11);
  std::copy_n(pair.base_ids.begin(), 3, pair.source_ids.begin());
  pair.source_of = {0, 1, 2, 4, 5, -1, 8, 9, 10};
  pair.source_metrics = {Metric("end", 10), Metric("before", 8)};
  plan.pairs = {pair};
  ExpectExact(plan);
}

TEST_P(SweepTest, OneTokenPromptsAndIdenticalPrompts) {
  SweepPlan plan{offered_->model, GridOver({SweepAxis::kLayer, SweepAxis::kPosition}, model::Site::kResidPre), api::SweepCell::kPatch, {}};
  plan.pairs = {RandomPair(1, 0, 0), RandomPair(1, 1, 0)};
  plan.grid.groups = 1;
  ExpectExact(plan);
  EXPECT_EQ(CostOf(plan).filled_cells, static_cast<uint64_t>(arch().layers));  // all cells of the pair without a difference
}

// The source run begins behind the tokens that it shares with its base run, beside it in one batch, and nothing is read of it in front.
TEST_P(SweepTest, TheCommonFrontIsRunOnce) {
  SweepPlan plan{offered_->model, GridOver({SweepAxis::kLayer, SweepAxis::kPosition}, model::Site::kAttnOut), api::SweepCell::kPatch, {}};
  plan.grid.groups = 9;
  plan.pairs = {RandomPair(9, 6, 8), RandomPair(9, 6, 4), RandomPair(9, 0, 8), RandomPair(9, 9, 8), RandomPair(9, 6, 8)};
  run::EditPlan edit;
  edit.place = {model::Site::kEmbed, 0, {3}, {}, {}};
  edit.edit = intervention::Zero{};
  plan.pairs[4].base_edits = {edit};
  const std::vector<int64_t> begins = {6, 4, 0, 8, 3};  // the tokens, a metric, nothing in common, the last position, an edit
  const Piece piece = PlanPiece(plan, 0);
  std::map<uint32_t, size_t> base, source;
  uint64_t tokens = 0;
  for (size_t i = 0; i < piece.rows.size(); ++i) {
    if (piece.rows[i].is == Piece::Row::Is::kBase) base[piece.rows[i].pair] = i;
    if (piece.rows[i].is == Piece::Row::Is::kSource) source[piece.rows[i].pair] = i;
    tokens += static_cast<uint64_t>(piece.plan.rows[i].lines());
  }
  for (uint32_t pair = 0; pair < begins.size(); ++pair) {
    const run::RowPlan& row = piece.plan.rows[source.at(pair)];
    EXPECT_EQ(row.first(), begins[pair]) << pair;
    EXPECT_FALSE(row.joins().has_value());
    for (const run::KeepPlan& keep : row.keeps) EXPECT_EQ(keep.place.positions.front(), row.first());
    EXPECT_EQ(piece.plan.rows[base.at(pair)].first(), 0);
  }
  const auto sink = Run(plan);
  ASSERT_TRUE(sink->status.ok()) << sink->status;
  EXPECT_EQ(sink->summary.tokens, tokens);
  plan.pairs.pop_back();  // the slow way knows no edits
  ExpectExact(plan);
}

// Base and source run are in one batch, however many pairs there are and however their lengths are ordered.
TEST_P(SweepTest, SourceRunsAreInTheBatchesOfTheirBaseRuns) {
  SweepPlan plan{offered_->model, GridOver({SweepAxis::kLayer, SweepAxis::kPosition}, model::Site::kAttnOut), api::SweepCell::kPatch, {}};
  plan.grid.groups = 1;
  for (int64_t i = 0; i < 80; ++i) {
    Pair pair = RandomPair(20 + i % 20, 5 + i % 9, 19);
    pair.groups = {{19}};
    if (i % 3 == 0) {  // the source is longer
      pair.source_ids.push_back(1);
      pair.source_metrics = {Metric("end", 20), Metric("before", 19)};
    }
    plan.pairs.push_back(pair);
  }
  const Piece piece = PlanPiece(plan, 0);
  size_t seen = 0;
  for (const std::vector<size_t>& batch : piece.plan.Batches()) {
    int64_t lines = 0;
    for (size_t i = 0; i < batch.size(); ++i) {
      const run::RowPlan& row = piece.plan.rows[batch[i]];
      lines += row.lines();
      ++seen;
      if (i > 0) {
        const run::RowPlan& before = piece.plan.rows[batch[i - 1]];
        EXPECT_LE(std::pair(before.length(), before.first()), std::pair(row.length(), row.first()));
      }
      if (row.fork && row.fork->at == run::Point{}) {
        EXPECT_THAT(batch, testing::Contains(piece.plan.trunks[row.fork->trunk].row));
      }
    }
    EXPECT_LE(lines, run::kBatchTokens);
  }
  EXPECT_EQ(seen, piece.plan.rows.size());
  ExpectExact(plan);
}

// A long sweep runs in pieces; every cell comes once.
TEST_P(SweepTest, ManyPairs) {
  SweepPlan plan{offered_->model, GridOver({SweepAxis::kLayer, SweepAxis::kPosition}, model::Site::kResidPre), api::SweepCell::kPatch, {}};
  plan.grid.groups = 5;
  for (int i = 0; i < 600; ++i) plan.pairs.push_back(RandomPair(5, i % 5, 2));
  const auto sink = Run(plan);
  ASSERT_TRUE(sink->status.ok()) << sink->status;
  EXPECT_EQ(sink->values.size(), plan.cells());
  EXPECT_EQ(sink->references.size(), 600u);
  for (uint32_t pair : {0u, 255u, 256u, 599u})
    for (uint32_t cell = 0; cell < plan.grid.cells(); ++cell)
      EXPECT_NEAR(sink->values.at({pair, cell})[0], SlowCell(plan.pairs[pair], plan.grid.At(cell))[0], 1e-5);
}

// However small the pieces are in which a sweep is planned, and whether rows share batches or each has its own.
TEST_P(SweepTest, NeitherPiecesNorBatchesChangeAValue) {
  for (const model::Site site : {model::Site::kResidPre, model::Site::kMlpOut, model::Site::kRotK}) {
    SweepPlan plan{offered_->model, GridOver({SweepAxis::kLayer, SweepAxis::kPosition}, site), api::SweepCell::kPatch, {}};
    plan.grid.groups = 9;
    plan.pairs = {RandomPair(9, 0, 8), RandomPair(9, 3, 5), RandomPair(9, 8, 8)};
    const auto whole = Run(plan);
    for (const size_t rows : {1, 2, 5, 17, 8192}) {
      for (const bool isolated : {false, true}) {
        Pieces pieces = PiecesOf(plan);
        size_t planned = 0;
        pieces.plan = [made = std::move(pieces.plan), rows, isolated, &planned](size_t begin, size_t) {
          Piece piece = made(begin, rows);
          piece.plan.isolated = isolated;
          ++planned;
          return piece;
        };
        const auto parts = Run(std::move(pieces));
        ASSERT_TRUE(parts->status.ok()) << parts->status;
        EXPECT_EQ(planned > 1, rows < 100) << rows;
        ASSERT_EQ(parts->values.size(), whole->values.size());
        for (const auto& [key, values] : parts->values)
          for (size_t i = 0; i < values.size(); ++i)
            EXPECT_NEAR(values[i], whole->values.at(key)[i], 1e-5) << rows << " rows, isolated " << isolated << ", cell " << key.second;
      }
    }
  }
}

TEST_P(SweepTest, TwoHeadsAtOnce) { ExpectExact(HeadPairs({RandomPair(5, 1, 3), RandomPair(5, 5, 0)})); }

// What an earlier run has finished is left out, twins with their twins; so is what was not chosen. Nothing comes twice or is forgotten.
TEST_P(SweepTest, FinishedAndChosenTwins) {
  SweepPlan plan = HeadPairs({RandomPair(4, 1, 2), RandomPair(4, 0, 1)});
  const auto all = Run(plan);
  ASSERT_TRUE(all->status.ok()) << all->status;
  const auto cells = static_cast<uint32_t>(plan.grid.cells());
  std::vector<uint32_t> choice;
  for (uint32_t cell = 1; cell < cells; cell += 3) choice.push_back(cell);
  plan.finished = FinishedCells::AllBut(choice, 2, cells);
  const auto chosen = Run(plan);
  ASSERT_TRUE(chosen->status.ok()) << chosen->status;
  EXPECT_EQ(chosen->values.size(), choice.size() * 2);
  for (const auto& [key, values] : chosen->values) EXPECT_NEAR(values[0], all->values.at(key)[0], 1e-5) << key.second;
  plan.finished = FinishedCells(2, cells);
  size_t left = 2 * cells;
  for (uint32_t cell = 0; cell < cells; ++cell) {  // pair 0 completely; of pair 1 some cells without their twins
    left -= plan.finished.Add(0, cell);
    if (cell % 4 == 1) left -= plan.finished.Add(1, cell);
  }
  const auto rest = Run(plan);
  ASSERT_TRUE(rest->status.ok()) << rest->status;
  EXPECT_EQ(rest->values.size(), left);
  for (const auto& [key, values] : rest->values) {
    EXPECT_FALSE(plan.finished.Has(key.first, key.second));
    EXPECT_NEAR(values[0], all->values.at(key)[0], 1e-5) << key.second;
  }
}

using LongSweepTest = SweepTest;

// Rows with many queries behind a front attend by another kernel than short ones.
TEST_P(LongSweepTest, ManyPositionsBehindTheCommonFront) {
  for (const int64_t common : {70, 12, 140}) {
    SweepPlan plan{
        offered_->model, GridOver({SweepAxis::kLayer, SweepAxis::kPosition}, model::Site::kResidMid), api::SweepCell::kPatch, {}};
    plan.grid.layers = {0, arch().layers - 1};
    Pair pair = RandomPair(150, common, 147);
    pair.groups = {{common}, {common, common + 5, 146}};
    plan.grid.groups = 2;
    plan.pairs = {pair};
    ExpectExact(plan);
  }
}

INSTANTIATE_TEST_SUITE_P(Llama, LongSweepTest, testing::Values(+[](at::Device) { return model::MediumLlama(); }));
INSTANTIATE_TEST_SUITE_P(Families, SweepTest, testing::Values(&model::TinyLlama, &model::TinyGpt2));

}  // namespace
}  // namespace fluoroscope::sweep
