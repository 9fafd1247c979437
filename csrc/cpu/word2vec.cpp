// word2vec's training: parts of the block on several threads, each with room of its own.
#include "cpu/word2vec.h"

#include <algorithm>
#include <vector>

#include "cpu/isa/target.h"
#include "cpu/word2vec_rows.h"

namespace genlab::cpu {
namespace {

Word2vecTrain chosen_train() {
  static const Word2vecTrain chosen = GENLAB_WIDEST(word2vec_train());
  return chosen;
}

struct Sizes {
  int64_t longest, targets;
};

Sizes sizes_of(const Word2vecParams& p) {
  Sizes sizes{0, p.targets};
  for (int64_t i = 0; i < p.sentences; ++i) sizes.longest = std::max(sizes.longest, p.starts[i + 1] - p.starts[i]);
  sizes.targets = (p.targets + kWord2vecPad - 1) / kWord2vecPad * kWord2vecPad;
  return sizes;
}

class Room {
 public:
  Room(const Word2vecParams& p, const Sizes& sizes, int64_t parts)
      : words_(sizes.longest), names_(sizes.targets), positions_(sizes.longest), rows_(2 * sizes.targets),
        numbers_(6 * sizes.targets + 2 * p.d) {
    float* next = numbers_.data();
    const auto take = [&](int64_t count) {
      float* taken = next;
      next += count;
      return taken;
    };
    const int64_t n = sizes.targets;
    scratch = {words_.data(), positions_.data(), rows_.data(), names_.data(), take(2 * n), take(2 * n),
               take(n),       take(n),           take(p.d),    take(p.d),     n, nullptr};
    if (parts == 1) return;
    copies_.resize(4 * kHotRows * p.d);
    touched_.resize(2 * kHotRows);
    present_.resize(2 * kHotRows);
    // Words come by falling counts; of the tree's inner nodes the last is the root.
    const int64_t first = p.hierarchical() ? p.vocabulary - 1 - kHotRows : 0;
    // of a thread, after which its copies of hot rows are given back
    const int64_t interval = std::max<int64_t>(1, p.predictions_at_once() / parts);
    hot_ = {copies_.data(), copies_.data() + 2 * kHotRows * p.d, touched_.data(), present_.data(), 0, first, interval, 0};
    scratch.hot = &hot_;
  }

  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;

  Word2vecScratch scratch;

 private:
  std::vector<int32_t> words_, names_;
  std::vector<int64_t> positions_;
  std::vector<float*> rows_;
  std::vector<float> numbers_, copies_;
  std::vector<int32_t> touched_;
  std::vector<uint8_t> present_;
  Word2vecHotRows hot_{};
};

}  // namespace

Word2vecTotals word2vec(const Word2vecParams& params, int64_t parts, const ParallelFor& parallel_for) {
  const Sizes sizes = sizes_of(params);
  const int64_t words = params.starts[params.sentences];
  std::vector<Word2vecTotals> totals(parts, Word2vecTotals{});
  // Part i ends with the sentence in which its share of the words ends.
  const auto bound = [&](int64_t part) {
    const int64_t* found = std::lower_bound(params.starts, params.starts + params.sentences + 1, words * part / parts);
    return part == parts ? params.sentences : std::min<int64_t>(found - params.starts, params.sentences);
  };
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      Room room(params, sizes, parts);
      Word2vecTotals own{};
      chosen_train()(params, bound(part), bound(part + 1), room.scratch, own);
      totals[part] = own;
    }
  };
  if (parts == 1) {
    body(0, 1);
  } else {
    parallel_for(parts, body);
  }
  Word2vecTotals sum{};
  for (const Word2vecTotals& part : totals) {
    sum.loss += part.loss, sum.predictions += part.predictions, sum.words += part.words;
  }
  return sum;
}

}  // namespace genlab::cpu
