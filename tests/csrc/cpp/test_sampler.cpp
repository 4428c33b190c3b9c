// Episodes keep their promises, images turn as they should, and the prefetcher survives threads, early ends and forks.
#include "sampler/sampler.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "check.h"
#include "sampler/augment.h"
#include "sampler/byte_scale.h"
#include "sampler/prefetch.h"
#include "sampler/turn.h"

namespace maml_fast {
namespace {

// A bank with classes of different sizes, whose pixels are pseudo-random, and the config that samples it.
struct Fixture {
  std::vector<std::uint8_t> images;
  std::vector<std::int64_t> starts, counts;
  SamplerConfig config;

  Fixture(EpisodeSpec spec, std::int64_t n_classes, std::int64_t side) {
    std::int64_t n_images = 0;
    for (std::int64_t i = 0; i < n_classes; ++i) {
      starts.push_back(n_images);
      counts.push_back(spec.k_shot + spec.k_query + i % 3);
      n_images += counts.back();
    }
    images.resize(n_images * 2 * side * side);
    for (std::size_t i = 0; i < images.size(); ++i) images[i] = static_cast<std::uint8_t>(i * 167 + i / 251);
    config.spec = spec;
    config.bank = {images.data(), starts.data(), counts.data(), n_classes, 2, side, side};
    std::iota(config.table.begin(), config.table.end(), 0.0f);
  }
};

// A meta-batch in memory that ends where it must: a write beyond it is AddressSanitizer's.
struct Batch {
  std::vector<float> x_support, x_query;
  std::vector<std::int64_t> y_support, y_query;

  Batch(const SamplerConfig& config, std::int64_t n_episodes)
      : x_support(n_episodes * config.spec.n_way * config.spec.k_shot * config.bank.image_size(), -1.0f),
        x_query(n_episodes * config.spec.n_way * config.spec.k_query * config.bank.image_size(), -1.0f),
        y_support(n_episodes * config.spec.n_way * config.spec.k_shot, -1),
        y_query(n_episodes * config.spec.n_way * config.spec.k_query, -1) {}

  BatchBuffers buffers() { return {x_support.data(), y_support.data(), x_query.data(), y_query.data()}; }

  bool operator==(const Batch& other) const {
    return x_support == other.x_support && x_query == other.x_query && y_support == other.y_support &&
           y_query == other.y_query;
  }
};

Batch Written(const SamplerConfig& config, std::uint64_t first_episode, std::int64_t n_episodes) {
  Batch batch(config, n_episodes);
  EpisodeWriter writer(config);
  for (std::int64_t t = 0; t < n_episodes; ++t) writer.Write(first_episode + t, t, batch.buffers());
  return batch;
}

void TestShuffleKeepsItsPlaces() {
  Shuffler shuffler(50);
  std::vector<std::int64_t> first(50), again(50);
  for (std::uint64_t episode = 0; episode < 200; ++episode) {
    const EpisodeDraws draws = {9, episode};
    const std::int64_t n = 1 + static_cast<std::int64_t>(episode % 50);
    const std::int64_t k = 1 + static_cast<std::int64_t>(episode * 7 % n);
    shuffler.Shuffle(draws, 0, n, k, first.data());
    CHECK_EQ(std::set<std::int64_t>(first.begin(), first.begin() + k).size(), static_cast<std::size_t>(k));
    for (std::int64_t i = 0; i < k; ++i) CHECK(first[i] >= 0 && first[i] < n);
    Shuffler(n).Shuffle(draws, 0, n, k, again.data());  // one that has no past
    CHECK(std::equal(first.begin(), first.begin() + k, again.begin()));
  }
}

void TestEpisodesKeepTheirPromises() {
  const Fixture fixture({3, 4, 2, 3, true}, 7, 3);
  EpisodePicker picker(fixture.config.spec, fixture.config.bank);
  for (std::uint64_t episode = 0; episode < 300; ++episode) {
    picker.PickEpisode(episode);
    CHECK_EQ(picker.support().size(), 8u);
    CHECK_EQ(picker.query().size(), 12u);
    std::vector<Pick> picks = picker.support();
    picks.insert(picks.end(), picker.query().begin(), picker.query().end());
    std::set<std::int64_t> images, classes;
    std::vector<int> per_label(4, 0);
    std::vector<std::set<std::int64_t>> class_of(4), turns_of(4);
    for (const Pick& pick : picks) {
      images.insert(pick.image);
      const auto after = std::upper_bound(fixture.starts.begin(), fixture.starts.end(), pick.image);
      classes.insert(after - fixture.starts.begin());
      class_of.at(pick.label).insert(after - fixture.starts.begin());
      turns_of.at(pick.label).insert(pick.quarter_turns);
      ++per_label.at(pick.label);
    }
    CHECK_EQ(images.size(), picks.size());
    CHECK_EQ(classes.size(), 4u);
    for (int label = 0; label < 4; ++label) {
      CHECK_EQ(per_label[label], 5);
      CHECK_EQ(class_of[label].size(), 1u);
      CHECK_EQ(turns_of[label].size(), 1u);
      CHECK(*turns_of[label].begin() >= 0 && *turns_of[label].begin() < 4);
    }
  }
}

// The numbers that tests/data/test_philox.py holds for the NumPy twin.
void TestTheLayoutOfTheDrawsIsPinned() {
  const std::vector<std::int64_t> starts = {0, 100, 200, 300, 400}, counts = {20, 30, 17, 25, 20};
  const EpisodeSpec spec = {3, 3, 2, 5, true};
  EpisodePicker picker(spec, {nullptr, starts.data(), counts.data(), 5, 1, 1, 1});
  picker.PickEpisode(1);
  const std::vector<std::int64_t> images = {201, 316, 204, 304, 413, 411}, labels = {0, 1, 0, 1, 2, 2};
  const std::int32_t turns[] = {2, 1, 1};
  for (int i = 0; i < 6; ++i) {
    CHECK_EQ(picker.support()[i].image, images[i]);
    CHECK_EQ(picker.support()[i].label, labels[i]);
    CHECK_EQ(picker.support()[i].quarter_turns, turns[labels[i]]);
  }
  CHECK_EQ(picker.query().front().image, 409);  // item 10: the first query image of slot 2
  CHECK_EQ(picker.query().front().label, 2);
}

void TestTurns() {
  const std::vector<std::uint8_t> image = {1, 2, 3, 4, 5, 6, 7, 8};  // [2, 2, 2]
  const std::vector<std::vector<std::uint8_t>> expected = {
      {2, 4, 1, 3, 6, 8, 5, 7}, {4, 3, 2, 1, 8, 7, 6, 5}, {3, 1, 4, 2, 7, 5, 8, 6}};
  for (int turns = 1; turns < 4; ++turns) {
    std::vector<std::uint8_t> out(8);
    TurnImage(image.data(), 2, 2, turns, out.data());
    CHECK(out == expected[turns - 1]);
  }
}

// Quotients, their inversion and a table of anything, at every length of the last vector.
void TestScales() {
  std::array<float, 256> raw, unit, inverted, other;
  for (int byte = 0; byte < 256; ++byte) {
    raw[byte] = static_cast<float>(byte);
    unit[byte] = raw[byte] / 255.0f;
    inverted[byte] = 1.0f - unit[byte];
    other[byte] = byte == 200 ? -7.0f : unit[byte];
  }
  for (const auto& table : {raw, unit, inverted, other}) {
    const ByteScale scale(table);
    for (std::size_t n = 0; n < 70; ++n) {
      std::vector<std::uint8_t> bytes(n);
      for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 + n);
      std::vector<float> out(n);
      scale.Apply(bytes.data(), static_cast<std::int64_t>(n), out.data());
      for (std::size_t i = 0; i < n; ++i) CHECK_EQ(out[i], table[bytes[i]]);
    }
  }
}

// An image [3, 1, 4] of memory that ends where it must, moved, flipped and in other colors.
void TestAugmentations() {
  const std::vector<std::uint8_t> image = {1, 2, 3, 4, 11, 12, 13, 14, 101, 102, 103, 104};
  auto changed = [&](const Augmentation& by) {
    std::vector<std::uint8_t> out(12, 255);
    AugmentImage(image.data(), 3, 1, 4, by, out.data());
    return out;
  };
  CHECK(changed({}) == image);
  CHECK((changed({0, -1, false}) == std::vector<std::uint8_t>{1, 1, 2, 3, 11, 11, 12, 13, 101, 101, 102, 103}));
  CHECK((changed({5, 3, false}) == std::vector<std::uint8_t>{4, 4, 4, 4, 14, 14, 14, 14, 104, 104, 104, 104}));
  CHECK((changed({0, 1, true}) == std::vector<std::uint8_t>{4, 4, 3, 2, 14, 14, 13, 12, 104, 104, 103, 102}));
  CHECK(
      (changed({0, 0, false, kOne * 2}) == std::vector<std::uint8_t>{2, 4, 6, 8, 22, 24, 26, 28, 202, 204, 206, 208}));
  for (std::uint8_t byte : changed({0, 0, false, kOne, 0})) CHECK_EQ(byte, 20);  // the mean gray, 19.7
  const std::vector<std::uint8_t> gray = changed({0, 0, false, kOne, kOne, 0});  // of each pixel
  for (int i = 0; i < 4; ++i) CHECK(gray[i] == 18 + i && gray[4 + i] == gray[i] && gray[8 + i] == gray[i]);
}

// A spec that leaves images as they are draws nothing for them; one that changes them stays within its bounds.
void TestAugmentationsAreDrawnWithinBounds() {
  const AugmentSpec spec = {3, true, 1000};
  CHECK(spec.any() && !AugmentSpec{}.any());
  std::set<std::int32_t> rows, columns, flips;
  for (std::uint32_t item = 0; item < 2000; ++item) {
    const Augmentation drawn = DrawAugmentation({9, 4}, spec, kQueryAugmentStream, item);
    rows.insert(drawn.row);
    columns.insert(drawn.column);
    flips.insert(drawn.flip);
    for (const std::int32_t factor : {drawn.brightness, drawn.contrast, drawn.saturation}) {
      CHECK(factor >= kOne - 1000 && factor <= kOne + 1000);
    }
    const Augmentation none = DrawAugmentation({9, 4}, {}, kQueryAugmentStream, item);
    CHECK(none.row == 0 && none.column == 0 && !none.flip && none.brightness == kOne);
  }
  CHECK(rows == (std::set<std::int32_t>{-3, -2, -1, 0, 1, 2, 3}) && columns == rows && flips.size() == 2);
}

void TestPrefetcherIsInOrderForAnyThreads() {
  const Fixture fixture({11, 3, 1, 4, true, {2, true, 400}}, 9, 5);
  for (const int threads : {1, 2, 5}) {
    for (const std::int64_t n_episodes : {1, 4}) {
      std::vector<Batch> batches(30, Batch(fixture.config, n_episodes));
      Prefetcher prefetcher(fixture.config, threads);
      const std::size_t ahead = 3;
      for (std::size_t i = 0; i < batches.size() + ahead; ++i) {
        if (i < batches.size()) prefetcher.Submit(i * n_episodes, n_episodes, batches[i].buffers());
        if (i < ahead) continue;
        prefetcher.Wait();
        CHECK(batches[i - ahead] == Written(fixture.config, (i - ahead) * n_episodes, n_episodes));
      }
      CHECK_EQ(prefetcher.n_pending(), 0u);
    }
  }
}

// After Close the buffers may go: a thread that still wrote would be a use after free.
void TestPrefetcherEndsEarly() {
  const Fixture fixture({12, 5, 1, 15, true}, 9, 14);
  for (int repeat = 0; repeat < 60; ++repeat) {
    std::vector<Batch> batches(4, Batch(fixture.config, 8));
    Prefetcher prefetcher(fixture.config, 1 + repeat % 4);
    for (int i = 0; i < repeat % 5; ++i) prefetcher.Submit(i * 8, 8, batches[i].buffers());
    if (repeat % 5 > 1 && repeat % 2 == 0) prefetcher.Wait();
    if (repeat % 3 == 0) std::this_thread::yield();
    prefetcher.Close();
    CHECK(prefetcher.closed());
    prefetcher.Close();
    batches.clear();
  }
}

void TestPrefetcherIsDestroyedAtWork() {
  const Fixture fixture({13, 5, 1, 15, false}, 9, 14);
  for (int repeat = 0; repeat < 30; ++repeat) {
    std::vector<Batch> batches(3, Batch(fixture.config, 8));
    Prefetcher prefetcher(fixture.config, 3);
    for (int i = 0; i < 3; ++i) prefetcher.Submit(i * 8, 8, batches[i].buffers());
    if (repeat % 2 == 0) prefetcher.Wait();
  }
}

void TestTwoPrefetchersShareABank() {
  const Fixture fixture({14, 3, 1, 4, true}, 9, 5);
  std::vector<std::thread> consumers;
  for (int consumer = 0; consumer < 3; ++consumer) {
    consumers.emplace_back([&fixture] {
      Prefetcher prefetcher(fixture.config, 2);
      Batch batch(fixture.config, 6);
      for (std::uint64_t i = 0; i < 10; ++i) {
        prefetcher.Submit(i * 6, 6, batch.buffers());
        prefetcher.Wait();
        CHECK(batch == Written(fixture.config, i * 6, 6));
      }
    });
  }
  for (std::thread& consumer : consumers) consumer.join();
}

// Runs in a forked child, whose prefetcher has none of its threads.
void GoOnInChild(const Fixture& fixture, Prefetcher* prefetcher, std::vector<Batch>* batches) {
  for (std::size_t i = 0; i < batches->size(); ++i) {
    prefetcher->Wait();
    CHECK((*batches)[i] == Written(fixture.config, i * 4, 4));
  }
  prefetcher->Submit(400, 4, (*batches)[0].buffers());
  prefetcher->Wait();
  CHECK((*batches)[0] == Written(fixture.config, 400, 4));
}

void TestPrefetcherAfterFork() {
  const Fixture fixture({15, 3, 1, 4, true}, 9, 5);
  for (const bool go_on : {true, false}) {
    std::vector<Batch> batches(6, Batch(fixture.config, 4));
    Prefetcher prefetcher(fixture.config, 3);
    for (std::size_t i = 0; i < batches.size(); ++i) prefetcher.Submit(i * 4, 4, batches[i].buffers());
    const pid_t child = fork();
    if (child == 0) {
      if (go_on) GoOnInChild(fixture, &prefetcher, &batches);
      prefetcher.Close();
      _exit(0);
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    for (std::size_t i = 0; i < batches.size(); ++i) prefetcher.Wait();
    CHECK(batches[5] == Written(fixture.config, 20, 4));
  }
}

}  // namespace
}  // namespace maml_fast

int main() {
  maml_fast::TestShuffleKeepsItsPlaces();
  maml_fast::TestEpisodesKeepTheirPromises();
  maml_fast::TestTheLayoutOfTheDrawsIsPinned();
  maml_fast::TestTurns();
  maml_fast::TestScales();
  maml_fast::TestAugmentations();
  maml_fast::TestAugmentationsAreDrawnWithinBounds();
  maml_fast::TestPrefetcherIsInOrderForAnyThreads();
  maml_fast::TestPrefetcherEndsEarly();
  maml_fast::TestPrefetcherIsDestroyedAtWork();
  maml_fast::TestTwoPrefetchersShareABank();
  if (maml_fast::kForkAndThreads) maml_fast::TestPrefetcherAfterFork();
}
