// word2vec's training for one instruction set: what word2vec_<instruction set>.cpp compiles.
#include "cpu/word2vec_rows.h"

#include "cpu/isa/begin.h"

typedef float Quad __attribute__((vector_size(16)));

template <typename V>
GENLAB_INLINE V load_as(const float* data) {
  V value;
  memcpy(&value, data, sizeof(value));
  return value;
}

template <typename V>
GENLAB_INLINE void store_as(float* data, V value) {
  memcpy(data, &value, sizeof(value));
}

GENLAB_INLINE float sum_quad(Quad value) { return (value[0] + value[2]) + (value[1] + value[3]); }

// Sum over the lanes, folded down to four of them in registers.
GENLAB_INLINE Quad fold(Vector<float> value) {
  Quad parts[kLanes<float> / 4];
  memcpy(parts, &value, sizeof(value));
  for (int64_t width = kLanes<float> / 8; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) parts[i] += parts[i + width];
  }
  return parts[0];
}

// What one prediction is made of: rows of the output table, whether each is to be told yes or no, and how often it counts.
struct Targets {
  float** rows;
  float* labels;
  float* weights;
  int64_t count;

  GENLAB_MEMBER void add(float* row, float label) {
    rows[count] = row, labels[count] = label, weights[count] = 1.0f;
    ++count;
  }

  // Rows that nothing is asked of, up to a whole number of vectors.
  GENLAB_MEMBER void fill_up() {
    for (int64_t i = count; i % kLanes<float> != 0; ++i) labels[i] = 1.0f, weights[i] = 0.0f;
  }
};

// The dot products of x with `kCount` rows.
template <int64_t kCount>
GENLAB_INLINE void dot_products(const float* x, float* const* rows, float* logits, int64_t d) {
  Vector<float> sums[kCount] = {};
  int64_t at = 0;
  for (; at + kLanes<float> <= d; at += kLanes<float>) {
    const Vector<float> value = load(x + at);
    for (int64_t i = 0; i < kCount; ++i) sums[i] += value * load(rows[i] + at);
  }
  Quad folded[kCount];
  for (int64_t i = 0; i < kCount; ++i) folded[i] = fold(sums[i]);
  for (; at + 4 <= d; at += 4) {
    const Quad value = load_as<Quad>(x + at);
    for (int64_t i = 0; i < kCount; ++i) folded[i] += value * load_as<Quad>(rows[i] + at);
  }
  for (int64_t i = 0; i < kCount; ++i) logits[i] = sum_quad(folded[i]);
  for (; at < d; ++at) {
    for (int64_t i = 0; i < kCount; ++i) logits[i] += x[at] * rows[i][at];
  }
}

// Slopes rate * (label - s(logit)) * weight, and the sum of -log of what each target was given.
GENLAB_INLINE float slopes_of(const Targets& targets, float* logits, float* slopes, float rate) {
  for (int64_t i = targets.count; i % kLanes<float> != 0; ++i) logits[i] = 0.0f;
  Vector<float> loss = {};
  for (int64_t at = 0; at < targets.count; at += kLanes<float>) {
    const Vector<float> logit = load(logits + at), label = load(targets.labels + at), weight = load(targets.weights + at);
    const Vector<float> e = exponential(-magnitude(logit)), tail = e / (1.0f + e);
    const Vector<float> sure = logit < 0.0f ? tail : 1.0f - tail;
    const Vector<float> wrong = label > 0.5f ? -logit : logit;
    store(slopes + at, (label - sure) * weight * rate);
    loss += ((wrong > 0.0f ? wrong : Vector<float>{}) + log_one_plus(e)) * weight;
  }
  return sum_quad(fold(loss));
}

// One piece of the vectors: rows move along x, and what x would move by goes to `error`, or onto x itself.
template <typename V, bool kInPlace>
GENLAB_INLINE void move_piece(float* x, float* error, const Targets& targets, const float* slopes, int64_t at) {
  const V value = load_as<V>(x + at);
  V sum = {};
  for (int64_t i = 0; i < targets.count; ++i) {
    float* row = targets.rows[i] + at;
    const V old = load_as<V>(row);
    sum += old * slopes[i];
    store_as(row, old + value * slopes[i]);
  }
  store_as(kInPlace ? x + at : error + at, kInPlace ? value + sum : sum);
}

// One prediction from x; returns its loss.
template <bool kInPlace>
GENLAB_INLINE float predict(
    float* x, float* error, const Targets& targets, const Word2vecParams& p, const Word2vecScratch& scratch) {
  int64_t i = 0;
  for (; i + 6 <= targets.count; i += 6) dot_products<6>(x, targets.rows + i, scratch.logits + i, p.d);
  for (; i + 2 <= targets.count; i += 2) dot_products<2>(x, targets.rows + i, scratch.logits + i, p.d);
  if (i < targets.count) dot_products<1>(x, targets.rows + i, scratch.logits + i, p.d);
  const float loss = slopes_of(targets, scratch.logits, scratch.slopes, p.rate);
  int64_t at = 0;
  for (; at + kLanes<float> <= p.d; at += kLanes<float>) {
    move_piece<Vector<float>, kInPlace>(x, error, targets, scratch.slopes, at);
  }
  for (; at + 4 <= p.d; at += 4) move_piece<Quad, kInPlace>(x, error, targets, scratch.slopes, at);
  for (; at < p.d; ++at) move_piece<float, kInPlace>(x, error, targets, scratch.slopes, at);
  return loss;
}

// Row `row` of the inputs (`table` 0) or outputs (1), in the table or in this thread's copy.
template <int kTable>
GENLAB_INLINE float* row_of(const Word2vecParams& p, const Word2vecScratch& s, int64_t row) {
  float* const own = (kTable == 0 ? p.inputs : p.outputs) + row * p.d;
  if (s.hot == nullptr) return own;
  const int64_t place = kTable == 0 ? row : row - s.hot->first_output;
  if (place < 0 || place >= kHotRows) return own;
  const int64_t slot = place + kTable * kHotRows;
  float* const copy = s.hot->values + slot * p.d;
  if (s.hot->present[slot] == 0) {
    s.hot->present[slot] = 1;
    s.hot->touched[s.hot->count++] = static_cast<int32_t>(slot);
    memcpy(copy, own, p.d * sizeof(float));
    memcpy(s.hot->loaded + slot * p.d, own, p.d * sizeof(float));
  }
  return copy;
}

// Adds what this thread changed in its copies to the tables.
GENLAB_INLINE void give_back(const Word2vecParams& p, Word2vecHotRows& hot) {
  for (int64_t i = 0; i < hot.count; ++i) {
    const int64_t slot = hot.touched[i];
    float* const row = slot < kHotRows ? p.inputs + slot * p.d : p.outputs + (slot - kHotRows + hot.first_output) * p.d;
    const float* const value = hot.values + slot * p.d;
    const float* const loaded = hot.loaded + slot * p.d;
    for (int64_t at = 0; at < p.d; ++at) row[at] += value[at] - loaded[at];
    hot.present[slot] = 0;
  }
  hot.count = hot.waiting = 0;
}

GENLAB_INLINE void prefetch_row(const float* row, int64_t d) {
  for (int64_t at = 0; at < d; at += 16) __builtin_prefetch(row + at, 1);
}

// Word w and the noise of the n-th prediction of a position. A word that is drawn twice counts twice.
GENLAB_INLINE void draw_noise(
    Targets& targets, const Word2vecParams& p, const Word2vecScratch& scratch, uint64_t state, int64_t n, int32_t w) {
  targets.count = 0;
  targets.add(row_of<1>(p, scratch, w), 1.0f);
  prefetch_row(targets.rows[0], p.d);
  for (int64_t k = 0; k < p.negatives; ++k) {
    const int32_t word = word2vec_noise(p.noise, p.vocabulary, word2vec_draw(state, kWord2vecNoise + n * p.negatives + k));
    if (word == w) continue;
    int64_t same = 1;
    while (same < targets.count && scratch.names[same] != word) ++same;
    if (same < targets.count) {
      targets.weights[same] += 1.0f;
      continue;
    }
    scratch.names[targets.count] = word;
    targets.add(row_of<1>(p, scratch, word), 0.0f);
    prefetch_row(targets.rows[same], p.d);
  }
  targets.fill_up();
}

GENLAB_INLINE void take_path(Targets& targets, const Word2vecParams& p, const Word2vecScratch& s, int32_t w) {
  targets.count = 0;
  for (int64_t at = p.path_starts[w]; at < p.path_starts[w + 1]; ++at) {
    targets.add(row_of<1>(p, s, p.path_nodes[at]), p.path_codes[at] != 0 ? 0.0f : 1.0f);
  }
  targets.fill_up();
}

GENLAB_INLINE void add_to(float* row, const float* error, float share, int64_t d) {
  for (int64_t at = 0; at < d; ++at) row[at] += share * error[at];
}

// Skip-gram: each context word predicts the centre. The noise of the next prediction is drawn before this one is made, so
// that its rows are on their way from memory.
GENLAB_INLINE float skip_gram_centre(
    const Word2vecParams& p, const Word2vecScratch& s, uint64_t state, int64_t centre, int64_t first, int64_t last) {
  const int32_t w = s.words[centre];
  Targets targets[2] = {{s.rows, s.labels, s.weights, 0}, {s.rows + s.targets, s.labels + s.targets, s.weights + s.targets, 0}};
  const bool sampled = p.noise != nullptr;
  if (sampled) {
    draw_noise(targets[0], p, s, state, 0, w);
  } else {
    take_path(targets[0], p, s, w);
  }
  float loss = 0;
  const int64_t count = last - first;
  for (int64_t n = 0; n < count; ++n) {
    const int64_t place = first + n < centre ? first + n : first + n + 1;
    if (sampled && n + 1 < count) draw_noise(targets[(n + 1) % 2], p, s, state, n + 1, w);
    loss += predict<true>(row_of<0>(p, s, s.words[place]), nullptr, targets[sampled ? n % 2 : 0], p, s);
  }
  return loss;
}

// CBOW: the mean of the context words predicts the centre.
GENLAB_INLINE float cbow_centre(
    const Word2vecParams& p, const Word2vecScratch& s, uint64_t state, int64_t centre, int64_t first, int64_t last) {
  Targets targets{s.rows, s.labels, s.weights, 0};
  if (p.noise != nullptr) {
    draw_noise(targets, p, s, state, 0, s.words[centre]);
  } else {
    take_path(targets, p, s, s.words[centre]);
  }
  const float share = 1.0f / static_cast<float>(last - first);
  memset(s.mean, 0, p.d * sizeof(float));
  for (int64_t place = first; place <= last; ++place) {
    if (place != centre) add_to(s.mean, row_of<0>(p, s, s.words[place]), 1.0f, p.d);
  }
  for (int64_t at = 0; at < p.d; ++at) s.mean[at] *= share;
  const float loss = predict<false>(s.mean, s.error, targets, p, s);
  for (int64_t place = first; place <= last; ++place) {
    if (place != centre) add_to(row_of<0>(p, s, s.words[place]), s.error, p.mean_gradient ? share : 1.0f, p.d);
  }
  return loss;
}

// The words of a sentence that subsampling leaves, with their positions in the text.
GENLAB_INLINE int64_t keep_words(const Word2vecParams& p, const Word2vecScratch& s, int64_t sentence) {
  int64_t count = 0;
  for (int64_t at = p.starts[sentence]; at < p.starts[sentence + 1]; ++at) {
    const int64_t position = p.position + at;
    if (p.keep != nullptr) {
      const uint64_t coin = word2vec_draw(word2vec_state(p.key, position), kWord2vecKeep);
      if (word2vec_uniform(coin) >= p.keep[p.words[at]]) continue;
    }
    s.words[count] = p.words[at];
    s.positions[count] = position;
    ++count;
  }
  return count;
}

static void train(
    const Word2vecParams& p, int64_t begin, int64_t end, const Word2vecScratch& s, Word2vecTotals& totals) {
  for (int64_t sentence = begin; sentence < end; ++sentence) {
    const int64_t count = keep_words(p, s, sentence);
    totals.words += count;
    for (int64_t centre = 0; centre < count; ++centre) {
      const uint64_t state = word2vec_state(p.key, s.positions[centre]);
      const int64_t reach = 1 + word2vec_below(word2vec_draw(state, kWord2vecReach), p.window);
      const int64_t first = centre < reach ? 0 : centre - reach;
      const int64_t last = centre + reach < count ? centre + reach : count - 1;
      if (first == last) continue;
      totals.loss += p.cbow ? cbow_centre(p, s, state, centre, first, last) : skip_gram_centre(p, s, state, centre, first, last);
      const int64_t made = p.cbow ? 1 : last - first;
      totals.predictions += made;
      if (s.hot != nullptr && (s.hot->waiting += made) >= s.hot->interval) give_back(p, *s.hot);
    }
  }
  if (s.hot != nullptr) give_back(p, *s.hot);
}

Word2vecTrain word2vec_train() { return train; }

#include "cpu/isa/end.h"
