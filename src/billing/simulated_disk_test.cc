// Tests of billing/simulated_disk.h: that it keeps what base/file.h promises and breaks everything
// else; and one contract, the same text over it and over directories of this machine.
#include "billing/simulated_disk.h"

#include <gtest/gtest.h>
#include <stdlib.h>  // mkdtemp is POSIX's

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>
#include <string>

namespace llmproxy {
namespace {

using Call = SimulatedDisk::Call;
using Left = SimulatedDisk::Left;

// Of blocks, each full of one letter.
std::string blocks(std::string_view letters, size_t block = SimulatedDisk::kSectorBytes) {
  std::string bytes;
  for (const char letter : letters) bytes.append(block, letter);
  return bytes;
}

// The inverse: "?" for a block of several letters, "." for zeros.
std::string letters(std::string_view bytes, size_t block = SimulatedDisk::kSectorBytes) {
  std::string found;
  for (size_t i = 0; i < bytes.size(); i += block) {
    const std::string_view one = bytes.substr(i, block);
    const char first = one[0] == '\0' ? '.' : one[0];
    found += one.find_first_not_of(one[0]) == std::string_view::npos ? first : '?';
  }
  return found;
}

// Where a Directory comes from.
class Place {
 public:
  virtual ~Place() = default;
  virtual std::unique_ptr<Directory> open() = 0;
  virtual std::unique_ptr<Directory> open_to_read() = 0;
};

class RealPlace final : public Place {
 public:
  explicit RealPlace(std::string parent) : path_(std::move(parent) + "/llmproxy-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  ~RealPlace() override {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::unique_ptr<Directory> open() override { return open_directory(path_, problem_); }
  std::unique_ptr<Directory> open_to_read() override {
    return open_directory_to_read(path_, problem_);
  }

 private:
  std::string path_, problem_;
};

class SimulatedPlace final : public Place {
 public:
  explicit SimulatedPlace(size_t block_bytes) : disk_(1, block_bytes) {}
  std::unique_ptr<Directory> open() override { return disk_.open(); }
  std::unique_ptr<Directory> open_to_read() override { return disk_.open_to_read(); }

 private:
  SimulatedDisk disk_;
};

std::unique_ptr<Place> place_of(const std::string& kind) {
  if (kind == "Simulated") return std::make_unique<SimulatedPlace>(4096);
  if (kind == "SimulatedSmallBlocks") return std::make_unique<SimulatedPlace>(512);
  if (kind == "Tmpfs") return std::make_unique<RealPlace>("/dev/shm");
  return std::make_unique<RealPlace>(std::filesystem::temp_directory_path().native());
}

class DirectoryContract : public testing::TestWithParam<const char*> {
 protected:
  std::vector<std::string> names(Directory& directory) {
    std::vector<std::string> all{"from before"};
    EXPECT_EQ(directory.list(all), 0);
    std::ranges::sort(all);
    return all;
  }
  std::vector<std::string> names() { return names(*directory_); }
  std::unique_ptr<File> make(const std::string& name, std::string_view content) {
    std::unique_ptr<File> file;
    EXPECT_EQ(directory_->create(name, content.size() * block_, file), 0);
    EXPECT_EQ(file->write(0, blocks(content, block_)), 0);
    return file;
  }
  std::string seen(File& file, uint64_t offset = 0) {
    std::string bytes(32 * block_, 'x');
    size_t n = 1;
    EXPECT_EQ(file.read(offset, bytes, n), 0);
    return letters(std::string_view(bytes).substr(0, n), block_);
  }
  std::string seen(const std::string& name) {
    std::unique_ptr<File> file;
    const int error = directory_->open(name, file);
    return error == 0 ? seen(*file) : std::to_string(error);
  }

  const std::unique_ptr<Place> place_ = place_of(GetParam());
  std::unique_ptr<Directory> directory_ = place_->open();
  const size_t block_ = directory_->block_bytes();
  std::unique_ptr<File> file_;
};

using Names = std::vector<std::string>;

TEST_P(DirectoryContract, BeginsEmptyAndListsWhatIsMade) {
  EXPECT_EQ(names(), Names{});
  make("b", "x");
  make("a", "");
  EXPECT_EQ(names(), (Names{"a", "b"}));
  EXPECT_EQ(directory_->sync(), 0);
  EXPECT_EQ(names(), (Names{"a", "b"}));
}

TEST_P(DirectoryContract, ANameExistsOnceAndMissingOnesAreTold) {
  make("a", "xy");
  EXPECT_EQ(directory_->create("a", block_, file_), EEXIST);
  EXPECT_EQ(file_, nullptr);
  EXPECT_EQ(seen("a"), "xy");
  EXPECT_EQ(directory_->open("b", file_), ENOENT);
  EXPECT_EQ(directory_->remove("b"), ENOENT);
  EXPECT_EQ(directory_->rename("b", "a"), ENOENT);
  EXPECT_EQ(seen("a"), "xy");
}

TEST_P(DirectoryContract, RefusesWhatIsNoNameOfAFile) {
  make("a", "x");
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("lock"), std::string("d/a"),
        std::string("/a"), std::string("a\0b", 3)}) {
    EXPECT_EQ(directory_->open(name, file_), EINVAL) << name;
    EXPECT_EQ(directory_->create(name, block_, file_), EINVAL) << name;
    EXPECT_EQ(directory_->remove(name), EINVAL) << name;
    EXPECT_EQ(directory_->rename("a", name), EINVAL) << name;
    EXPECT_EQ(directory_->rename(name, "a"), EINVAL) << name;
  }
  EXPECT_EQ(names(), Names{"a"});
}

TEST_P(DirectoryContract, RefusesWhatIsNoMultipleOfABlock) {
  auto file = make("a", "xyz");
  std::string bytes(2 * block_, 'n');
  const std::span<char> span(bytes);
  size_t n = 1;
  EXPECT_EQ(file->write(1, bytes), EINVAL);
  EXPECT_EQ(file->write(block_ / 2, bytes), EINVAL);
  EXPECT_EQ(file->write(0, std::string_view(bytes).substr(1)), EINVAL);
  EXPECT_EQ(file->read(1, span, n), EINVAL);
  EXPECT_EQ(n, 0U);
  EXPECT_EQ(file->read(0, span.subspan(1), n), EINVAL);
  EXPECT_EQ(directory_->create("b", block_ + 1, file_), EINVAL);
  EXPECT_EQ(seen("a"), "xyz");
  EXPECT_EQ(names(), Names{"a"});
}

TEST_P(DirectoryContract, ReadsWhatWasWritten) {
  EXPECT_EQ(directory_->create("a", 4 * block_, file_), 0);
  EXPECT_EQ(seen(*file_), "....");
  EXPECT_EQ(file_->write(block_, blocks("xy", block_)), 0);
  EXPECT_EQ(seen(*file_), ".xy.");
  EXPECT_EQ(file_->write(2 * block_, blocks("z", block_)), 0);
  EXPECT_EQ(file_->write(0, ""), 0);
  EXPECT_EQ(seen(*file_), ".xz.");
  EXPECT_EQ(seen(*file_, 2 * block_), "z.");
  EXPECT_EQ(seen(*file_, 4 * block_), "");
  EXPECT_EQ(seen(*file_, 9 * block_), "");
  EXPECT_EQ(seen("a"), ".xz.");
}

TEST_P(DirectoryContract, WritingBeyondTheEndMakesItLonger) {
  auto file = make("a", "x");
  EXPECT_EQ(file->write(3 * block_, blocks("y", block_)), 0);
  EXPECT_EQ(seen(*file), "x..y");
  uint64_t size = 0;
  EXPECT_EQ(file->size(size), 0);
  EXPECT_EQ(size, 4 * block_);
}

TEST_P(DirectoryContract, TruncatesToAnySize) {
  auto file = make("a", "xxxx");
  uint64_t size = 0;
  EXPECT_EQ(file->truncate(2 * block_ + 7), 0);
  EXPECT_EQ(file->size(size), 0);
  EXPECT_EQ(size, 2 * block_ + 7);
  EXPECT_EQ(seen(*file), "xxx");
  EXPECT_EQ(file->truncate(4 * block_), 0);  // longer: what was cut off does not come back
  EXPECT_EQ(seen(*file), "xx?.");
  EXPECT_EQ(file->truncate(0), 0);
  EXPECT_EQ(seen(*file), "");
}

TEST_P(DirectoryContract, RenamesOverAnotherAndOpenFilesStay) {
  auto first = make("a", "x");
  auto second = make("b", "y");
  EXPECT_EQ(directory_->rename("a", "a"), 0);
  EXPECT_EQ(directory_->rename("a", "b"), 0);
  EXPECT_EQ(names(), Names{"b"});
  EXPECT_EQ(first->write(0, blocks("z", block_)), 0);
  EXPECT_EQ(seen("b"), "z");
  EXPECT_EQ(second->write(0, blocks("u", block_)), 0);
  EXPECT_EQ(seen(*second), "u");
  EXPECT_EQ(directory_->remove("b"), 0);
  EXPECT_EQ(names(), Names{});
  EXPECT_EQ(seen(*first), "z");
  make("b", "v");
  EXPECT_EQ(seen("b"), "v");
}

TEST_P(DirectoryContract, ReplacesAndReadsWholeFiles) {
  std::string bytes = "before";
  EXPECT_EQ(read_file(*directory_, "a", 1 << 20, bytes), ENOENT);
  EXPECT_EQ(bytes, "");
  for (const size_t size : {size_t{3}, 5 * block_, block_ + 1, size_t{0}}) {
    const std::string content(size, 'x');
    EXPECT_EQ(replace_file(*directory_, "a", content), 0);
    EXPECT_EQ(read_file(*directory_, "a", 5 * block_, bytes), 0);
    std::string expected = content;
    expected.resize((size + block_ - 1) / block_ * block_);
    EXPECT_EQ(bytes, expected);
    EXPECT_EQ(names(), Names{"a"});
  }
  make("a.new", "left by a crash");
  EXPECT_EQ(replace_file(*directory_, "a", blocks("xy", block_)), 0);
  EXPECT_EQ(names(), Names{"a"});
  EXPECT_EQ(read_file(*directory_, "a", 2 * block_ - 1, bytes), EFBIG);
  EXPECT_EQ(bytes, "");
  EXPECT_EQ(read_file(*directory_, "a", 2 * block_, bytes), 0);
  EXPECT_EQ(directory_->open("a", file_), 0);
  EXPECT_EQ(file_->truncate(block_ + 5), 0);
  EXPECT_EQ(read_file(*directory_, "a", 2 * block_, bytes), 0);
  EXPECT_EQ(bytes, blocks("x", block_) + "yyyyy");
}

TEST_P(DirectoryContract, HasOneOwnerAndAnyReaders) {
  auto file = make("a", "x");
  EXPECT_EQ(place_->open(), nullptr);
  auto reader = place_->open_to_read();
  ASSERT_NE(reader, nullptr);
  EXPECT_EQ(reader->block_bytes(), block_);
  EXPECT_EQ(names(*reader), Names{"a"});
  ASSERT_EQ(reader->open("a", file_), 0);
  EXPECT_EQ(file->write(0, blocks("y", block_)), 0);
  EXPECT_EQ(seen(*file_), "y");
  EXPECT_EQ(file_->write(0, blocks("z", block_)), EROFS);
  EXPECT_EQ(file_->truncate(0), EROFS);
  EXPECT_EQ(reader->create("b", block_, file_), EROFS);
  EXPECT_EQ(reader->rename("a", "b"), EROFS);
  EXPECT_EQ(reader->remove("a"), EROFS);
  EXPECT_EQ(reader->sync(), EROFS);
  reader.reset();
  EXPECT_EQ(place_->open(), nullptr);
  directory_.reset();
  directory_ = place_->open();
  ASSERT_NE(directory_, nullptr);
  EXPECT_EQ(seen("a"), "y");
}

TEST_P(DirectoryContract, TellsItsRoom) {
  uint64_t bytes = 0;
  EXPECT_EQ(directory_->free_bytes(bytes), 0);
  EXPECT_GT(bytes, 0U);
}

INSTANTIATE_TEST_SUITE_P(Places, DirectoryContract,
                         testing::Values("Simulated", "SimulatedSmallBlocks", "Real", "Tmpfs"),
                         [](const auto& place) { return std::string(place.param); });

// What only the simulated disk can be asked.

constexpr uint64_t kSeeds = 400;
constexpr uint64_t kSweepSeeds = 100;  // each with every crash point

// A file with its name, both durable.
std::unique_ptr<File> make_durable(Directory& directory, const std::string& name,
                                   std::string_view content) {
  std::unique_ptr<File> file;
  EXPECT_EQ(directory.create(name, content.size() * SimulatedDisk::kSectorBytes, file), 0);
  EXPECT_EQ(file->write(0, blocks(content)), 0);
  EXPECT_EQ(directory.sync(), 0);
  return file;
}

std::string seen(const SimulatedDisk& disk, const std::string& name) {
  const auto content = disk.content(name);
  return content ? letters(*content) : "-";
}

// "a=content b=content".
std::string seen(const SimulatedDisk& disk) {
  std::string all;
  for (const std::string& name : disk.names()) all += " " + name + "=" + seen(disk, name);
  return all;
}

// What is seen at the end of `run`, over many seeds.
std::set<std::string> outcomes(const std::function<std::string(SimulatedDisk&)>& run) {
  std::set<std::string> all;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    SimulatedDisk disk(seed);
    all.insert(run(disk));
  }
  return all;
}

using Set = std::set<std::string>;

TEST(SimulatedDisk, WhatIsDurableSurvives) {
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              auto file = make_durable(*directory, "a", "xyzu");
              EXPECT_EQ(file->write(1024, blocks("vw")), 0);
              EXPECT_EQ(file->truncate(3 * 512), 0);
              disk.crash();
              disk.crash();
              disk.kill();
              return seen(disk);
            }),
            Set{" a=xyv"});
}

TEST(SimulatedDisk, APowerCutTearsAndReordersTheWriteUnderWay) {
  Set expected;
  for (int bits = 0; bits < 8; ++bits) {
    expected.insert({'x', bits & 1 ? 'z' : 'y', bits & 2 ? 'z' : 'y', bits & 4 ? 'z' : 'y', 'u'});
  }
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              auto file = make_durable(*directory, "a", "xyyyu");
              disk.crash_at({.call = Call::kWrite});
              EXPECT_THROW(file->write(512, blocks("zzz")), SimulatedCrash);
              disk.crash();
              return seen(disk, "a");
            }),
            expected);
}

TEST(SimulatedDisk, AKilledProcessLeavesTheFrontOfItsWriteAndAPowerCutMayTakeThat) {
  const auto run = [](SimulatedDisk& disk) {
    auto directory = disk.open();
    auto file = make_durable(*directory, "a", "yyy");
    disk.crash_at({});
    EXPECT_THROW(file->write(0, blocks("zzz")), SimulatedCrash);
    disk.kill();
    return seen(disk, "a");
  };
  EXPECT_EQ(outcomes(run), (Set{"yyy", "zyy", "zzy", "zzz"}));
  EXPECT_EQ(outcomes([&](SimulatedDisk& disk) {
              const std::string killed = run(disk);
              disk.kill();
              EXPECT_EQ(seen(disk, "a"), killed);
              disk.crash();
              return killed == "zzz" ? seen(disk, "a") : "";
            }),
            (Set{"", "yyy", "zyy", "yzy", "zzy", "yyz", "zyz", "yzz", "zzz"}));
}

TEST(SimulatedDisk, NamesSurviveEachForItself) {
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              make_durable(*directory, "a", "x");
              make_durable(*directory, "c", "y");
              EXPECT_EQ(directory->rename("a", "b"), 0);
              EXPECT_EQ(directory->remove("c"), 0);
              EXPECT_EQ(seen(disk), " b=x");
              disk.crash();
              return seen(disk);
            }),
            (Set{" a=x", " a=x c=y", " b=x", " b=x c=y"}));
}

TEST(SimulatedDisk, ALostCreationTakesTheContentAlong) {
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              std::unique_ptr<File> file;
              EXPECT_EQ(directory->create("a", 512, file), 0);
              EXPECT_EQ(file->write(0, blocks("x")), 0);
              EXPECT_EQ(directory->rename("a", "b"), 0);
              disk.crash();
              return seen(disk);
            }),
            (Set{"", " a=x", " b=x"}));
}

TEST(SimulatedDisk, AFileThatIsReplacedIsTheOldOrTheNew) {
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              make_durable(*directory, "a", "x");
              make_durable(*directory, "b", "y");
              EXPECT_EQ(directory->rename("b", "a"), 0);
              std::unique_ptr<File> file;
              EXPECT_EQ(directory->create("b", 512, file), 0);
              disk.crash();
              return seen(disk);
            }),
            (Set{" a=x b=y", " a=y", " a=y b=."}));
}

TEST(SimulatedDisk, NamesAreDurableAfterSyncOnly) {
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              make_durable(*directory, "a", "x");
              make_durable(*directory, "b", "y");
              EXPECT_EQ(directory->rename("a", "c"), 0);
              EXPECT_EQ(directory->remove("b"), 0);
              EXPECT_EQ(directory->sync(), 0);
              disk.crash();
              return seen(disk);
            }),
            Set{" c=x"});
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {  // the death of a process does what no sync did
              auto directory = disk.open();
              make_durable(*directory, "a", "x");
              EXPECT_EQ(directory->rename("a", "c"), 0);
              disk.kill();
              EXPECT_EQ(seen(disk), " c=x");
              disk.crash();
              return seen(disk);
            }),
            (Set{" a=x", " c=x"}));
}

TEST(SimulatedDisk, CallsAreCutInTheMiddle) {
  using Step = std::function<int(Directory&, File&)>;
  const auto cut = [](const Step& step, bool is_power_cut) {
    return outcomes([&](SimulatedDisk& disk) {
      auto directory = disk.open();
      auto file = make_durable(*directory, "a", "xx");
      disk.crash_at({});
      EXPECT_THROW(step(*directory, *file), SimulatedCrash);
      if (is_power_cut) {
        disk.crash();
      } else {
        disk.kill();
      }
      return seen(disk);
    });
  };
  std::unique_ptr<File> made;
  const Step create = [&](Directory& d, File&) { return d.create("b", 1024, made); };
  const Step rename = [](Directory& d, File&) { return d.rename("a", "b"); };
  const Step remove = [](Directory& d, File&) { return d.remove("a"); };
  const Step truncate = [](Directory&, File& f) { return f.truncate(512); };
  for (const bool is_power_cut : {false, true}) {
    EXPECT_EQ(cut(create, is_power_cut), (Set{" a=xx", " a=xx b=", " a=xx b=.", " a=xx b=.."}));
    EXPECT_EQ(cut(rename, is_power_cut), (Set{" a=xx", " b=xx"}));
    EXPECT_EQ(cut(remove, is_power_cut), (Set{" a=xx", ""}));
    EXPECT_EQ(cut(truncate, is_power_cut), (Set{" a=xx", " a=x"}));
  }
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              make_durable(*directory, "a", "x");
              EXPECT_EQ(directory->rename("a", "b"), 0);
              disk.crash_at({.call = Call::kSync});
              EXPECT_THROW(directory->sync(), SimulatedCrash);
              disk.crash();
              return seen(disk);
            }),
            (Set{" a=x", " b=x"}));
}

TEST(SimulatedDisk, AnUnfinishedTruncateCanBeSeenAndComeBack) {
  EXPECT_TRUE(outcomes([](SimulatedDisk& disk) {
                auto directory = disk.open();
                auto file = make_durable(*directory, "a", "xx");
                disk.crash_at({});
                EXPECT_THROW(file->truncate(512), SimulatedCrash);
                disk.kill();
                const std::string killed = seen(disk);
                disk.crash();
                return killed + seen(disk);
              }).contains(" a=x a=xx"));
}

TEST(SimulatedDisk, WhatWasCutOffDoesNotComeBackIntoALongerFile) {
  const auto cut_and = [](const std::function<void(File&)>& step) {
    return outcomes([&](SimulatedDisk& disk) {
      auto directory = disk.open();
      auto file = make_durable(*directory, "a", "xx");
      disk.crash_at({});
      EXPECT_THROW(file->truncate(512), SimulatedCrash);
      disk.kill();
      if (seen(disk, "a") == "xx") return std::string();
      directory = disk.open();
      EXPECT_EQ(directory->open("a", file), 0);
      step(*file);
      disk.crash();
      const std::string left = seen(disk, "a");
      EXPECT_EQ(disk.open()->open("a", file), 0);
      EXPECT_EQ(file->truncate(1024), 0);
      disk.crash();
      return left + " " + seen(disk, "a");
    });
  };
  EXPECT_EQ(cut_and([](File& file) { EXPECT_EQ(file.truncate(1024), 0); }), (Set{"", "x. x."}));
  EXPECT_EQ(cut_and([](File& file) { EXPECT_EQ(file.write(0, blocks("y")), 0); }),
            (Set{"", "y y."}));
  EXPECT_EQ(cut_and([](File& file) { EXPECT_EQ(file.write(1024, blocks("y")), 0); }),
            (Set{"", "x.y x."}));
  EXPECT_EQ(cut_and([](File&) {}), (Set{"", "x x.", "xx xx"}));
  SimulatedDisk disk(1);
  auto directory = disk.open();
  auto file = make_durable(*directory, "a", "yy");
  disk.set_lying(true);
  EXPECT_EQ(file->write(0, blocks("zz")), 0);
  EXPECT_EQ(file->truncate(700), 0);
  EXPECT_EQ(file->truncate(1024), 0);
  EXPECT_EQ(disk.content("a"), blocks("z") + std::string(188, 'z') + std::string(324, '\0'));
}

TEST(SimulatedDisk, AWriteUnderWayBeyondTheEndIsThereWithItsSizeOrNot) {
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              auto file = make_durable(*directory, "a", "x");
              disk.crash_at({});
              EXPECT_THROW(file->write(512, blocks("y")), SimulatedCrash);
              disk.crash();
              const std::string left = seen(disk, "a");
              disk.crash();
              EXPECT_EQ(seen(disk, "a"), left);
              EXPECT_EQ(disk.open()->open("a", file), 0);
              EXPECT_EQ(file->truncate(1024), 0);
              return left + " " + seen(disk, "a");
            }),
            (Set{"x x.", "x. x.", "xy xy"}));
}

TEST(SimulatedDisk, ChangesToTheSameNameKeepTheirOrder) {
  const auto left = [](const std::function<void(Directory&)>& changes) {
    return outcomes([&](SimulatedDisk& disk) {
      auto directory = disk.open();
      make_durable(*directory, "a", "x");
      make_durable(*directory, "b", "y");
      changes(*directory);
      disk.crash();
      return seen(disk);
    });
  };
  EXPECT_EQ(left([](Directory& d) {
              EXPECT_EQ(d.rename("a", "b"), 0);
              EXPECT_EQ(d.remove("b"), 0);
            }),
            (Set{" a=x b=y", " b=x", ""}));
  EXPECT_EQ(left([](Directory& d) {
              EXPECT_EQ(d.rename("b", "c"), 0);
              EXPECT_EQ(d.rename("a", "c"), 0);
            }),
            (Set{" a=x b=y", " a=x c=y", " c=x"}));
}

TEST(SimulatedDisk, ADurableWriteTakesThePlaceOfWhatWasNot) {
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              auto file = make_durable(*directory, "a", "yyy");
              disk.set_lying(true);
              EXPECT_EQ(file->write(0, blocks("zzz")), 0);
              disk.set_lying(false);
              EXPECT_EQ(file->write(512, blocks("u")), 0);
              disk.crash();
              return seen(disk, "a");
            }),
            (Set{"yuy", "zuy", "yuz", "zuz"}));
}

TEST(SimulatedDisk, EveryCallIsAStepThatCanCrashAndNothingWorksAfterIt) {
  using Step = std::function<int(Directory&, File&)>;
  std::unique_ptr<File> other;
  std::vector<std::string> names;
  std::string bytes(512, '\0');
  size_t n = 0;
  uint64_t size = 0;
  const Step steps[] = {
      [&](Directory& d, File&) { return d.list(names); },
      [&](Directory& d, File&) { return d.open("a", other); },
      [&](Directory& d, File&) { return d.create("b", 512, other); },
      [&](Directory& d, File&) { return d.rename("a", "c"); },
      [&](Directory& d, File&) { return d.rename("a", "no/name"); },
      [&](Directory& d, File&) { return d.remove("a"); },
      [&](Directory& d, File&) { return d.sync(); },
      [&](Directory& d, File&) { return d.free_bytes(size); },
      [&](Directory&, File& f) { return f.read(0, bytes, n); },
      [&](Directory&, File& f) { return f.write(0, bytes); },
      [&](Directory&, File& f) { return f.write(1, bytes); },
      [&](Directory&, File& f) { return f.truncate(0); },
      [&](Directory&, File& f) { return f.size(size); },
  };
  for (const Step& step : steps) {
    SimulatedDisk disk(1);
    auto directory = disk.open();
    auto file = make_durable(*directory, "a", "x");
    EXPECT_EQ(disk.steps(), 3U);
    disk.crash_at({.first = 2});
    EXPECT_EQ(directory->sync(), 0);
    EXPECT_FALSE(disk.has_crashed());
    EXPECT_THROW(step(*directory, *file), SimulatedCrash);
    EXPECT_TRUE(disk.has_crashed());
    EXPECT_EQ(disk.steps(), 5U);
    for (const Step& after : steps) EXPECT_THROW(after(*directory, *file), SimulatedCrash);
    disk.crash();
    EXPECT_FALSE(disk.has_crashed());
    EXPECT_EQ(disk.steps(), 0U);
    auto next = disk.open();
    ASSERT_NE(next, nullptr);
    for (const Step& after : steps) EXPECT_THROW(after(*directory, *file), SimulatedCrash);
    directory.reset();  // of the life before: does not give the lock back
    EXPECT_EQ(disk.open(), nullptr);
    EXPECT_EQ(next->sync(), 0);
  }
}

TEST(SimulatedDisk, FaultsHitTheCallsThatAreMeant) {
  SimulatedDisk disk(1);
  auto directory = disk.open();
  auto a = make_durable(*directory, "1.segment", "x");
  auto b = make_durable(*directory, "b", "y");
  disk.add_fault({.point = {.first = 2, .call = Call::kWrite, .name_end = ".segment"},
                  .error = ENOSPC,
                  .times = 2});
  const std::string bytes = blocks("z");
  EXPECT_EQ(a->write(0, bytes), 0);
  EXPECT_EQ(b->write(0, bytes), 0);
  EXPECT_EQ(a->truncate(512), 0);
  EXPECT_EQ(a->write(0, bytes), ENOSPC);
  EXPECT_EQ(b->write(0, bytes), 0);
  EXPECT_EQ(a->write(0, bytes), ENOSPC);
  EXPECT_EQ(a->write(0, bytes), 0);
  EXPECT_EQ(disk.faults_hit(), 2U);
  disk.fail_at(2, EIO);
  disk.fail_from(4, EROFS);
  EXPECT_EQ(directory->sync(), 0);
  EXPECT_EQ(directory->sync(), EIO);
  EXPECT_EQ(directory->sync(), 0);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(directory->sync(), EROFS);
  disk.kill();
  directory = disk.open();
  EXPECT_EQ(directory->sync(), EROFS) << "the disk is as broken as before";
  disk.clear_faults();
  EXPECT_EQ(directory->sync(), 0);
  disk.add_fault({.point = {.name_end = "to"}});
  EXPECT_EQ(directory->open("b", b), 0);
  EXPECT_EQ(directory->rename("b", "to"), EIO);
}

TEST(SimulatedDisk, AFailedWriteLeavesWhatItIsToldTo) {
  const auto failed = [](Left left, bool is_cut) {
    return outcomes([&](SimulatedDisk& disk) {
      auto directory = disk.open();
      auto file = make_durable(*directory, "a", "yy");
      disk.add_fault({.point = {.call = Call::kWrite}, .left = left});
      EXPECT_EQ(file->write(0, blocks("zz")), EIO);
      const std::string before = seen(disk, "a");
      if (is_cut) disk.crash();
      if (left == Left::kPart) {
        EXPECT_EQ(seen(disk, "a"), before);
      }
      return seen(disk, "a");
    });
  };
  const Set every{"yy", "yz", "zy", "zz"};
  EXPECT_EQ(failed(Left::kNothing, false), Set{"yy"});
  EXPECT_EQ(failed(Left::kNothing, true), Set{"yy"});
  EXPECT_EQ(failed(Left::kPart, false), every);
  EXPECT_EQ(failed(Left::kUntilCrash, false), every);
  EXPECT_EQ(failed(Left::kUntilCrash, true), Set{"yy"});
  EXPECT_EQ(failed(Left::kAny, false), every);
  EXPECT_EQ(failed(Left::kAny, true), every);
}

TEST(SimulatedDisk, ASecondTryOfAFailedWriteProvesNothing) {
  const auto run = [](SimulatedDisk& disk) {
    auto directory = disk.open();
    auto file = make_durable(*directory, "a", "y");
    disk.add_fault({.left = Left::kNothing});
    EXPECT_EQ(file->write(0, blocks("z")), EIO);
    EXPECT_EQ(file->write(0, blocks("z")), 0);
    EXPECT_EQ(seen(disk, "a"), "z");
    disk.crash();
    return seen(disk, "a");
  };
  EXPECT_EQ(outcomes(run), (Set{"y", "z"}));
}

TEST(SimulatedDisk, OtherFailedCallsMayHaveHappened) {
  const auto failed = [](const std::function<int(Directory&, File&)>& step, Left left) {
    return outcomes([&](SimulatedDisk& disk) {
      auto directory = disk.open();
      auto file = make_durable(*directory, "a", "xx");
      disk.add_fault({.left = left});
      EXPECT_EQ(step(*directory, *file), EIO);
      return seen(disk);
    });
  };
  std::unique_ptr<File> made;
  std::vector<std::string> names;
  const auto rename = [](Directory& d, File&) { return d.rename("a", "b"); };
  const auto remove = [](Directory& d, File&) { return d.remove("a"); };
  const auto truncate = [](Directory&, File& f) { return f.truncate(512); };
  const auto create = [&](Directory& d, File&) { return d.create("b", 512, made); };
  const Set before{" a=xx"};
  EXPECT_EQ(failed(rename, Left::kAny), (Set{" a=xx", " b=xx"}));
  EXPECT_EQ(failed(rename, Left::kNothing), before);
  EXPECT_EQ(failed(remove, Left::kAny), (Set{" a=xx", ""}));
  EXPECT_EQ(failed(remove, Left::kNothing), before);
  EXPECT_EQ(failed(truncate, Left::kAny), (Set{" a=xx", " a=x"}));
  EXPECT_EQ(failed(truncate, Left::kNothing), before);
  EXPECT_EQ(failed(create, Left::kAny), (Set{" a=xx", " a=xx b=", " a=xx b=."}));
  EXPECT_EQ(failed(create, Left::kNothing), before);
  EXPECT_EQ(made, nullptr);
  size_t listed_some = 0;
  failed(
      [&](Directory& d, File&) {
        const int error = d.list(names);
        listed_some += names.size();
        return error;
      },
      Left::kAny);
  EXPECT_TRUE(listed_some > 0 && listed_some < kSeeds);
}

TEST(SimulatedDisk, AFailedReadTellsNothing) {
  SimulatedDisk disk(1);
  auto directory = disk.open();
  auto file = make_durable(*directory, "a", "x");
  disk.fail_at(1, EIO);
  std::string bytes(512, '\0');
  size_t n = 5;
  EXPECT_EQ(file->read(0, bytes, n), EIO);
  EXPECT_EQ(n, 0U);
  EXPECT_NE(letters(bytes), ".") << "what was there before";
  EXPECT_NE(letters(bytes), "x");
  EXPECT_EQ(file->read(0, bytes, n), 0);
  EXPECT_EQ(bytes, blocks("x"));
}

TEST(SimulatedDisk, HasTheRoomItIsGiven) {
  SimulatedDisk disk(1);
  disk.set_capacity(4 * 512);
  auto directory = disk.open();
  auto file = make_durable(*directory, "a", "xxx");
  uint64_t bytes = 0;
  EXPECT_EQ(directory->free_bytes(bytes), 0);
  EXPECT_EQ(bytes, 512U);
  std::unique_ptr<File> other;
  EXPECT_EQ(directory->create("b", 1024, other), ENOSPC);
  EXPECT_EQ(seen(disk), " a=xxx");
  EXPECT_EQ(file->write(1024, blocks("yyy")), ENOSPC);
  EXPECT_EQ(file->write(1024, blocks("yy")), 0);
  EXPECT_EQ(file->truncate(0), 0);
  EXPECT_EQ(directory->create("b", 1024, other), 0);
  disk.set_capacity(512);  // somebody else took it
  EXPECT_EQ(directory->free_bytes(bytes), 0);
  EXPECT_EQ(bytes, 0U);
  EXPECT_EQ(other->write(0, blocks("zz")), 0);  // in its own room
}

TEST(SimulatedDisk, ALyingOneLosesWhatItSaidWasWrittenButNotForEver) {
  const auto written = [](int more) {
    return outcomes([&](SimulatedDisk& disk) {
      auto directory = disk.open();
      auto file = make_durable(*directory, "a", "yy");
      disk.set_lying(true);
      EXPECT_EQ(file->write(0, blocks("zz")), 0);
      for (int i = 0; i < more; ++i) EXPECT_EQ(file->write(1024, blocks("u")), 0);
      EXPECT_EQ(seen(disk, "a").substr(0, 2), "zz");
      disk.crash();
      return seen(disk, "a").substr(0, 2);
    });
  };
  EXPECT_EQ(written(0), (Set{"yy", "yz", "zy", "zz"}));
  EXPECT_EQ(written(1), (Set{"yy", "yz", "zy", "zz"}));
  EXPECT_EQ(written(200), Set{"zz"});
}

TEST(SimulatedDisk, FilesCanBePutAndSpoiled) {
  SimulatedDisk disk(1);
  disk.put("a", blocks("xyz"));
  disk.spoil("a", 700, "!");
  EXPECT_EQ(seen(disk), " a=x?z");
  disk.crash();
  std::string expected = blocks("xyz");
  expected[700] = '!';
  EXPECT_EQ(disk.content("a"), expected);
  EXPECT_EQ(disk.content("b"), std::nullopt);
  disk.put("a", "short");
  std::string bytes;
  EXPECT_EQ(read_file(*disk.open(), "a", 512, bytes), 0);
  EXPECT_EQ(bytes, "short");
}

TEST(SimulatedDisk, WhatIsPutOrSpoiledIsDurable) {
  EXPECT_EQ(outcomes([](SimulatedDisk& disk) {
              auto directory = disk.open();
              std::unique_ptr<File> file;
              EXPECT_EQ(directory->create("a", 512, file), 0);
              make_durable(*directory, "b", "yy");
              EXPECT_EQ(directory->remove("a"), 0);
              disk.put("a", blocks("z"));
              disk.set_lying(true);
              EXPECT_EQ(directory->open("b", file), 0);
              EXPECT_EQ(file->write(0, blocks("zz")), 0);
              disk.spoil("b", 512, blocks("u"));
              disk.crash();
              return seen(disk);
            }),
            (Set{" a=z b=yu", " a=z b=zu"}));
}

TEST(SimulatedDisk, AFileIsKnownByTheNameItHas) {
  for (uint64_t seed = 0; seed < 9; ++seed) {
    SimulatedDisk disk(seed);
    auto directory = disk.open();
    auto file = make_durable(*directory, "a", "x");
    EXPECT_EQ(directory->rename("a", "b"), 0);
    disk.crash();
    const std::string name = disk.names().at(0);
    EXPECT_EQ(disk.open()->open(name, file), 0);
    disk.add_fault({.point = {.name_end = name}});
    EXPECT_EQ(file->write(0, blocks("y")), EIO);
  }
}

// Replaces a file time and again; throws SimulatedCrash.
void replace_thrice(Directory& directory) {
  for (const char* content : {"aaa", "bb", "cccc"}) {
    EXPECT_EQ(replace_file(directory, "f", blocks(content)), 0);
  }
}

std::vector<std::string> trace_of(uint64_t seed) {
  std::vector<std::string> lines;
  for (uint64_t step = 1;; ++step) {
    SimulatedDisk disk(seed);
    disk.set_trace(&lines);
    disk.crash_at({.first = step});
    auto directory = disk.open();
    try {
      replace_thrice(*directory);
    } catch (const SimulatedCrash&) {
    }
    const bool is_last = !disk.has_crashed();
    disk.crash();
    lines.push_back(seen(disk));
    if (is_last) return lines;
  }
}

TEST(SimulatedDisk, FollowsFromItsSeed) {
  const auto lines = trace_of(7);
  EXPECT_EQ(trace_of(7), lines);
  EXPECT_NE(trace_of(8), lines);
  EXPECT_EQ(lines[0], "1: crash in call 4 f.new ");
  const auto at = std::ranges::find(lines, "3: write f.new 0+1536 = 0");
  ASSERT_NE(at, lines.end());
  EXPECT_EQ(at[-1], "2: create f.new 1536 = 0");
}

TEST(SimulatedDisk, ReplaceFileLeavesNothingBesideAfterAnError) {
  for (const Call call : {Call::kCreate, Call::kWrite, Call::kRename}) {
    SimulatedDisk disk(1);
    auto directory = disk.open();
    EXPECT_EQ(replace_file(*directory, "f", blocks("x")), 0);
    disk.add_fault({.point = {.call = call}, .left = Left::kNothing});
    EXPECT_EQ(replace_file(*directory, "f", blocks("y")), EIO);
    EXPECT_EQ(seen(disk), " f=x");
  }
}

// What every crash point and many seeds leave of a file that is replaced: the sweep of the header's
// example. `last` is the content whose replacement was the last to return.
using Leaving = std::function<void(const std::string& left, const std::string& last)>;

void sweep(const std::function<int(Directory&, std::string_view)>& replace, bool is_lying,
           const Leaving& see) {
  const std::string contents[] = {"aaa", "bb", "cccc"};
  for (uint64_t seed = 0; seed < kSweepSeeds; ++seed) {
    bool is_last = false;
    for (uint64_t step = 1; !is_last; ++step) {
      SimulatedDisk disk(seed);
      disk.set_lying(is_lying);
      disk.crash_at({.first = step});
      auto directory = disk.open();
      std::string last = "-";
      try {
        for (const std::string& content : contents) {
          ASSERT_EQ(replace(*directory, blocks(content)), 0);
          last = content;
        }
      } catch (const SimulatedCrash&) {
      }
      is_last = !disk.has_crashed();
      seed % 4 == 0 ? disk.kill() : disk.crash();
      see(seen(disk, "f"), last);
    }
  }
}

bool is_right(const std::string& left, const std::string& last) {
  static const std::map<std::string, std::string> next{
      {"-", "aaa"}, {"aaa", "bb"}, {"bb", "cccc"}, {"cccc", "cccc"}};
  return left == last || left == next.at(last);
}

TEST(SimulatedDisk, ReplaceFileIsWholeAtEveryCrashPoint) {
  size_t runs = 0;
  const auto good = [](Directory& directory, std::string_view bytes) {
    return replace_file(directory, "f", bytes);
  };
  sweep(good, false, [&](const std::string& left, const std::string& last) {
    ++runs;
    EXPECT_PRED2(is_right, left, last);
  });
  EXPECT_EQ(runs, kSweepSeeds * (3 * 5 + 1));
}

TEST(SimulatedDisk, TheSweepSeesWhatIsWrong) {
  size_t in_place = 0, no_sync = 0, lying = 0;
  const auto counter = [](size_t& wrong) {
    return [&wrong](const std::string& left, const std::string& last) {
      if (!is_right(left, last)) ++wrong;
    };
  };
  sweep(
      [](Directory& directory, std::string_view bytes) {
        std::unique_ptr<File> file;
        int error = directory.open("f", file);
        if (error == ENOENT) error = directory.create("f", bytes.size(), file);
        if (error == 0) error = file->truncate(bytes.size());
        if (error == 0) error = file->write(0, bytes);
        return error == 0 ? directory.sync() : error;
      },
      false, counter(in_place));
  sweep(
      [](Directory& directory, std::string_view bytes) {
        std::unique_ptr<File> file;
        int error = directory.create("f.new", bytes.size(), file);
        if (error == 0) error = file->write(0, bytes);
        return error == 0 ? directory.rename("f.new", "f") : error;
      },
      false, counter(no_sync));
  sweep([](Directory& d, std::string_view bytes) { return replace_file(d, "f", bytes); }, true,
        counter(lying));
  EXPECT_GT(in_place, kSweepSeeds);
  EXPECT_GT(no_sync, kSweepSeeds);
  EXPECT_GT(lying, kSweepSeeds);
}

}  // namespace
}  // namespace llmproxy
