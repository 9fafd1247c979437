// word2vec on the GPU: a warp for each centre, its lanes along the vectors. Warps train at once over the same tables; sums
// are added atomically, so that no update is lost, but what a warp reads may be older (asynchronous descent). With one
// warp in all, centres come one after another as on the CPU.
#include "kernels/common/block_reduce.h"
#include "kernels/common/launch.h"
#include "kernels/word2vec.h"

#include <algorithm>

namespace genlab {
namespace {

constexpr int kMostShared = 48 * 1024;
constexpr int kMostWarps = 2;  // of a block: as there are few warps in all, they are spread over the multiprocessors

// Room of one warp in shared memory.
struct WarpRoom {
  float* x;          // [d] what predicts
  float* error;      // [d]
  float* slopes;     // [targets]
  int32_t* rows;     // [targets] of the output table; -1 for noise that is the word itself
  int32_t* context;  // [2 * window]
};

GENLAB_HOST_DEVICE int64_t room_floats(const Word2vecParams& p) { return 2 * p.d + 2 * p.targets + 2 * p.window; }

GENLAB_DEVICE WarpRoom room_of(const Word2vecParams& p, float* shared, int warp) {
  float* const begin = shared + warp * room_floats(p);
  float* const slopes = begin + 2 * p.d;
  int32_t* const rows = reinterpret_cast<int32_t*>(slopes + p.targets);
  return {begin, begin + p.d, slopes, rows, rows + p.targets};
}

GENLAB_DEVICE bool stays(const Word2vecParams& p, int64_t at) {
  if (p.keep == nullptr) return true;
  const uint64_t coin = word2vec_draw(word2vec_state(p.key, p.position + at), kWord2vecKeep);
  return word2vec_uniform(coin) < p.keep[p.words[at]];
}

// The sentence that holds word `at`: the last that begins at or before it.
GENLAB_DEVICE int64_t sentence_of(const Word2vecParams& p, int64_t at) {
  int64_t low = 0, high = p.sentences;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (p.starts[middle] <= at ? low : high) = middle;
  }
  return low;
}

struct Context {
  int64_t begin, end;  // in WarpRoom::context, from left to right
};

// The words that are left within `reach` of `at`; every lane walks the same way.
GENLAB_DEVICE Context gather_context(const Word2vecParams& p, const WarpRoom& room, int64_t at, int64_t reach, int lane) {
  const int64_t sentence = sentence_of(p, at);
  Context found{reach, reach};
  __syncwarp();  // the readers of the last centre are done
  for (int64_t place = at - 1; place >= p.starts[sentence] && found.begin > 0; --place) {
    if (!stays(p, place)) continue;
    --found.begin;
    if (lane == 0) room.context[found.begin] = p.words[place];
  }
  for (int64_t place = at + 1; place < p.starts[sentence + 1] && found.end < 2 * reach; ++place) {
    if (!stays(p, place)) continue;
    if (lane == 0) room.context[found.end] = p.words[place];
    ++found.end;
  }
  __syncwarp();
  return found;
}

// The rows of a prediction; returns their number.
GENLAB_DEVICE int64_t gather_targets(
    const Word2vecParams& p, const WarpRoom& room, int32_t word, uint64_t state, int64_t n, int lane) {
  const int64_t first = p.hierarchical() ? p.path_starts[word] : 0;
  const int64_t count = p.hierarchical() ? p.path_starts[word + 1] - first : 1 + p.negatives;
  __syncwarp();  // the readers of the last prediction are done
  for (int64_t i = lane; i < count; i += kWarpLanes) {
    if (p.hierarchical()) {
      room.rows[i] = p.path_nodes[first + i];
    } else if (i == 0) {
      room.rows[0] = word;
    } else {
      const uint64_t draw = word2vec_draw(state, kWord2vecNoise + n * p.negatives + (i - 1));
      const int32_t noise = word2vec_noise(p.noise, p.vocabulary, draw);
      room.rows[i] = noise == word ? -1 : noise;
    }
  }
  __syncwarp();
  return count;
}

GENLAB_DEVICE bool is_yes(const Word2vecParams& p, int32_t word, int64_t i) {
  return p.hierarchical() ? p.path_codes[p.path_starts[word] + i] == 0 : i == 0;
}

// One prediction of `word` from room.x: what x would move by is left in room.error, rows move along x.
GENLAB_DEVICE float predict(const Word2vecParams& p, const WarpRoom& room, int32_t word, int64_t count, int lane) {
  float loss = 0;
  for (int64_t at = lane; at < p.d; at += kWarpLanes) room.error[at] = 0;
  for (int64_t i = 0; i < count; ++i) {
    float slope = 0;
    if (room.rows[i] >= 0) {
      const float* row = p.outputs + int64_t(room.rows[i]) * p.d;
      float dot = 0;
      for (int64_t at = lane; at < p.d; at += kWarpLanes) dot += room.x[at] * row[at];
      dot = warp_reduce<Sum>(dot);
      const float label = is_yes(p, word, i) ? 1.0f : 0.0f, wrong = label > 0.5f ? -dot : dot;
      slope = p.rate * (label - 1.0f / (1.0f + expf(-dot)));
      loss += (wrong > 0 ? wrong : 0.0f) + log1pf(expf(-fabsf(wrong)));
      for (int64_t at = lane; at < p.d; at += kWarpLanes) room.error[at] += slope * row[at];
    }
    if (lane == 0) room.slopes[i] = slope;
  }
  __syncwarp();
  for (int64_t i = 0; i < count; ++i) {
    if (room.rows[i] < 0) continue;
    float* row = p.outputs + int64_t(room.rows[i]) * p.d;
    for (int64_t at = lane; at < p.d; at += kWarpLanes) atomicAdd(row + at, room.slopes[i] * room.x[at]);
  }
  return loss;
}

GENLAB_DEVICE float skip_gram_centre(
    const Word2vecParams& p, const WarpRoom& room, int32_t word, uint64_t state, Context context, int lane) {
  float loss = 0;
  for (int64_t place = context.begin; place < context.end; ++place) {
    float* const row = p.inputs + int64_t(room.context[place]) * p.d;
    for (int64_t at = lane; at < p.d; at += kWarpLanes) room.x[at] = row[at];
    const int64_t count = gather_targets(p, room, word, state, place - context.begin, lane);
    loss += predict(p, room, word, count, lane);
    for (int64_t at = lane; at < p.d; at += kWarpLanes) atomicAdd(row + at, room.error[at]);
  }
  return loss;
}

GENLAB_DEVICE float cbow_centre(
    const Word2vecParams& p, const WarpRoom& room, int32_t word, uint64_t state, Context context, int lane) {
  const float share = 1.0f / float(context.end - context.begin);
  for (int64_t at = lane; at < p.d; at += kWarpLanes) {
    float sum = 0;
    for (int64_t place = context.begin; place < context.end; ++place) {
      sum += p.inputs[int64_t(room.context[place]) * p.d + at];
    }
    room.x[at] = sum * share;
  }
  const float loss = predict(p, room, word, gather_targets(p, room, word, state, 0, lane), lane);
  const float part = p.mean_gradient ? share : 1.0f;
  for (int64_t place = context.begin; place < context.end; ++place) {
    float* const row = p.inputs + int64_t(room.context[place]) * p.d;
    for (int64_t at = lane; at < p.d; at += kWarpLanes) atomicAdd(row + at, part * room.error[at]);
  }
  return loss;
}

// "1": without a number of blocks ptxas keeps to 72 registers for sm_80 and spills.
__global__ void __launch_bounds__(kMostWarps* kWarpLanes, 1) word2vec_kernel(Word2vecParams p) {
  GENLAB_SHARED_DYNAMIC(float, shared);
  const int lane = threadIdx.x % kWarpLanes, warps = blockDim.x / kWarpLanes;
  const WarpRoom room = room_of(p, shared, threadIdx.x / kWarpLanes);
  const int64_t length = p.starts[p.sentences], step = int64_t(gridDim.x) * warps;
  double loss = 0, predictions = 0, words = 0;
  for (int64_t at = int64_t(blockIdx.x) * warps + threadIdx.x / kWarpLanes; at < length; at += step) {
    if (!stays(p, at)) continue;
    words += 1;
    const uint64_t state = word2vec_state(p.key, p.position + at);
    const int64_t reach = 1 + word2vec_below(word2vec_draw(state, kWord2vecReach), p.window);
    const Context context = gather_context(p, room, at, reach, lane);
    if (context.begin == context.end) continue;
    loss += p.cbow ? cbow_centre(p, room, p.words[at], state, context, lane)
                   : skip_gram_centre(p, room, p.words[at], state, context, lane);
    predictions += p.cbow ? 1.0 : double(context.end - context.begin);
  }
  if (lane != 0) return;
  atomicAdd(p.totals, loss);
  atomicAdd(p.totals + 1, predictions);
  atomicAdd(p.totals + 2, words);
}

}  // namespace

void launch_word2vec_warp_per_centre(const Word2vecParams& p, int64_t length, bool one_warp, CUstream_st* stream) {
  if (length == 0) return;
  const int64_t bytes = room_floats(p) * int64_t(sizeof(float));
  if (bytes > kMostShared) {
    throw std::runtime_error(
        "word2vec_warp_per_centre: expected vectors, windows and targets of at most " + std::to_string(kMostShared) +
        " bytes together, got " + std::to_string(bytes));
  }
  const int64_t warps = one_warp ? 1 : std::min<int64_t>(kMostWarps, kMostShared / bytes);
  const int64_t blocks = one_warp ? 1 : std::min(p.predictions_at_once() / warps, (length + warps - 1) / warps);
  GENLAB_LAUNCH(
      word2vec_kernel, dim3(unsigned(blocks)), dim3(unsigned(warps * kWarpLanes)), int(warps * bytes), stream, p);
  check_launch("word2vec_warp_per_centre");
}

}  // namespace genlab
