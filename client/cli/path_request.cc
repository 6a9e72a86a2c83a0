#include "client/cli/path_request.h"

#include <charconv>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/list_option.h"
#include "client/cli/notation.h"
#include "client/cli/output.h"

namespace fluoroscope::cli {
namespace {

std::string InLayer(uint32_t layer, const char* site) { return absl::StrCat("blocks.", layer, ".", site); }

std::optional<uint32_t> Number(const std::string& text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "9.6".
bool IsHead(const std::string& text) {
  const std::vector<std::string> fields = absl::StrSplit(text, '.');
  return fields.size() == 2 && Number(fields[0]) && Number(fields[1]);
}

// Reads what was given as --senders or --receivers.
class Ends {
 public:
  using Parts = std::vector<v1::PathNode>;

  Ends(bool senders, const v1::ModelInfo& model) : senders_(senders), model_(model) {}

  // One entry of the list: parts joined by + act together, and may have a name; a word for many parts gives a place for each of them unless
  // they act together.
  absl::Status Read(const std::string& text, const std::string& positions, google::protobuf::RepeatedPtrField<v1::PathEnd>* ends) const {
    if (!IsUtf8(text)) return absl::InvalidArgumentError(absl::StrCat(senders_ ? "--senders" : "--receivers", ": not UTF-8 text"));
    const size_t equals = text.find('=');
    const bool named = equals != std::string::npos;
    const std::vector<std::string> words = absl::StrSplit(named ? text.substr(equals + 1) : text, '+');
    if (named && IsHead(text.substr(0, equals)))
      return absl::InvalidArgumentError(absl::StrCat(senders_ ? "--senders" : "--receivers", ": the name '", text.substr(0, equals),
                                                     "' would be taken for a head; a name may be any text that is no head's"));
    std::vector<v1::PathEnd> made;
    for (const std::string& word : words) {
      auto parts = PartsOf(word);
      if (!parts.ok()) return parts.status();
      for (v1::PathNode& part : *parts) {
        if (made.empty() || (!named && words.size() == 1)) made.emplace_back();
        *made.back().add_nodes() = std::move(part);
      }
    }
    for (v1::PathEnd& end : made) {
      if (named) end.set_label(text.substr(0, equals));
      if (!positions.empty() && end.nodes(0).site() != "logits") {
        absl::Status status = FillPositions(positions, senders_ ? "--sender-positions" : "--receiver-positions", end.add_positions());
        if (!status.ok()) return status;
      }
      *ends->Add() = std::move(end);
    }
    return absl::OkStatus();
  }

 private:
  static v1::PathNode Part(const std::string& site) {
    v1::PathNode part;
    part.set_site(site);
    return part;
  }
  static v1::PathNode Head(uint32_t layer, const char* site, uint32_t head) {
    v1::PathNode part = Part(InLayer(layer, site));
    part.add_heads(head);
    return part;
  }
  Parts Heads(const char* site, uint32_t heads) const {
    Parts parts;
    for (uint32_t layer = 0; layer < model_.layers(); ++layer)
      for (uint32_t head = 0; head < heads; ++head) parts.push_back(Head(layer, site, head));
    return parts;
  }
  const char* Mlp() const { return senders_ ? "hook_mlp_out" : "hook_mlp_in"; }

  absl::StatusOr<Parts> PartsOf(const std::string& word) const {
    if (word == "mlps") {
      Parts parts;
      for (uint32_t layer = 0; layer < model_.layers(); ++layer) parts.push_back(Part(InLayer(layer, Mlp())));
      return parts;
    }
    if (senders_ && word == "heads") return Heads("attn.hook_z", model_.heads());
    if (senders_ && word == "embed") return Parts{Part("hook_embed")};
    if (!senders_ && word == "logits") return Parts{Part("logits")};
    if (!senders_ && word == "q") return Heads("attn.hook_q", model_.heads());
    if (!senders_ && word == "k") return Heads("attn.hook_k", model_.kv_heads());
    if (!senders_ && word == "v") return Heads("attn.hook_v", model_.kv_heads());
    if (word.find("hook_") != std::string::npos) return Parts{Part(word)};
    const std::vector<std::string> fields = absl::StrSplit(word, '.');
    if (fields.size() == 2 && fields[0] == "mlp") {
      if (const auto layer = Number(fields[1])) return Parts{Part(InLayer(*layer, Mlp()))};
    }
    if (senders_ && fields.size() == 2) {
      const auto layer = Number(fields[0]), head = Number(fields[1]);
      if (layer && head) return Parts{Head(*layer, "attn.hook_z", *head)};
    }
    if (!senders_ && fields.size() == 3) {
      const auto layer = Number(fields[1]), head = Number(fields[2]);
      for (const char* site : {"attn.hook_q", "attn.hook_k", "attn.hook_v"})
        if (layer && head && fields[0].size() == 1 && fields[0][0] == site[10]) return Parts{Head(*layer, site, *head)};
    }
    return absl::InvalidArgumentError(
        senders_
            ? absl::StrCat("--senders: '", word, "' is not heads, mlps, embed, a head such as 9.6 (layer 9, head 6), mlp.3 or a hook name")
            : absl::StrCat("--receivers: '", word,
                           "' is not logits, q, k, v, mlps, a head's input such as q.9.6 (layer 9, head 6), mlp.3 or a hook name"));
  }

  const bool senders_;
  const v1::ModelInfo& model_;
};

}  // namespace

void AddPathOptions(CLI::App& command, PathOptions* o) {
  AddPairOptions(command, &o->pair);
  for (const char* name : {"--clean", "--corrupt"}) command.get_option(name)->required();
  const auto list = [&](const char* name, std::vector<std::string>* to, const char* text) {
    command.add_option(name, *to, text)->delimiter(',')->allow_extra_args(false)->option_text("LIST");
  };
  list("--senders", &o->senders,
       "Who speaks, after commas: heads (every head; the default), mlps, embed, 9.6 (layer 9, head 6), mlp.3, or hook names. Parts joined "
       "by + "
       "act together, and may have a name: movers=9.6+9.9");
  list("--receivers", &o->receivers,
       "Who listens: logits (the default), q, k or v (every head's), mlps, q.9.6 (the queries of layer 9, head 6), mlp.3, or hook names; + "
       "and "
       "names as for senders. k and v have key-value heads");
  command
      .add_option("--direction", o->direction,
                  "noise: the clean prompt is run, senders say what they say in the corrupt one (default); denoise: the other way round")
      ->check(CLI::IsMember({"noise", "denoise"}).description(""))
      ->option_text("WAY");
  const auto way = [&](const char* name, std::string* to, const char* text) {
    command.add_option(name, *to, text)->check(CLI::IsMember({"recompute", "freeze"}).description(""))->option_text("HOW");
  };
  way("--mlps", &o->mlps, "recompute (default), so that paths through MLPs count, or freeze");
  way("--norms", &o->norms, "The same for the scales of the norms: recompute (default) or freeze");
  AddListOption(command, "--sender-positions", &o->sender_positions, "Where senders are changed; --sender-positions=-1 is the last (all)");
  AddListOption(command, "--receiver-positions", &o->receiver_positions, "Where receivers listen (all)");
  AddAlignOptions(command, &o->pair);
}

absl::StatusOr<v1::PathPatchRequest> MakePathRequest(const PathOptions& options, const v1::ModelInfo& model) {
  v1::PathPatchRequest request;
  request.set_model(options.pair.model);
  absl::Status status = FillPair(options.pair, request.add_pairs());
  request.set_direction(options.direction == "noise" ? v1::SWEEP_DIRECTION_NOISE : v1::SWEEP_DIRECTION_DENOISE);
  const Ends senders(true, model), receivers(false, model);
  for (const std::string& text : options.senders)
    if (status.ok()) status = senders.Read(text, options.sender_positions, request.mutable_senders());
  for (const std::string& text : options.receivers)
    if (status.ok()) status = receivers.Read(text, options.receiver_positions, request.mutable_receivers());
  request.set_freeze_mlps(options.mlps == "freeze");
  request.set_freeze_norms(options.norms == "freeze");
  if (status.ok()) status = FillMetric(options.pair, request.add_metrics());
  if (!status.ok()) return status;
  return request;
}

}  // namespace fluoroscope::cli
