"""Knowledge tracing with one student per task: an LSTM meta-trained by MAML, and one trained without meta-learning.

    python examples/students.py                                       # simulated students, a few minutes on one core
    python examples/students.py --csv answers.csv --student user_id   # a table of answers, as ASSISTments publishes

A student's first answers are the support set; the later ones are to be predicted (deep knowledge tracing, Piech et al.
2015). Both networks see the same students in the same order for the same number of iterations. Both read a student's
first answers before they predict the later ones, so adaptation can only add what its gradient steps add to that memory.
The LSTM without meta-learning is trained on all answers of a student. It is fine-tuned to new students with the same
number of steps, at the learning rate that works best on students set aside for this choice.

Do not expect much on simulated students: from the first answers alone the LSTM learns nearly everything there is to
know about a student. Adaptation improves MAML's network, but its interval overlaps that of the fine-tuned network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

import maml_fast as mf
from maml_fast.data import NO_ANSWER, AnswerLog, StudentSampler, answer_loss, student_episodes

RATES = (0.03, 0.1, 0.3, 1.0, 3.0)  # candidates for fine-tuning
INITIAL_RATES = {"sgd": 0.3, "adam": 0.01}  # of MAML's inner steps, by inner optimizer


class Scores(NamedTuple):
    """Areas under the ROC curve before and after adaptation, with the half-widths of their 95 % intervals."""

    before: float
    before_interval: float
    after: float
    after_interval: float


def main(arguments: Sequence[str] | None = None) -> dict[str, Scores]:
    """Train both networks and print a table of their scores on new students; return the scores by name."""
    options = _options(arguments)
    train, validation, test = parts(read(options), options.seed)
    print(
        f"{train.n_students} students to train on, {validation.n_students} to choose a rate, {test.n_students} new ones"
    )
    started = time.perf_counter()
    meta_learned = train_by_maml(train, options)
    between = time.perf_counter()
    ordinary = train_ordinarily(train, options)
    seconds = {"MAML": between - started, "ordinary training": time.perf_counter() - between}

    fine_tuned = best_rate(ordinary, all_students(validation, options), options.inner_steps)
    print(f"fine-tuning the network of ordinary training: rate {fine_tuned.inner_lr}")
    learners = {"MAML": meta_learned, "ordinary training": fine_tuned}
    episodes = all_students(test, options)
    scores = {name: score(learner, episodes) for name, learner in learners.items()}
    print_table(scores, seconds)
    return scores


def read(options: argparse.Namespace) -> AnswerLog:
    """Read the table of answers, or simulate students if none is given."""
    if options.csv is None:
        return mf.data.simulate_students(options.students, options.answers, options.skills, seed=options.seed)
    columns = {name: getattr(options, name) for name in ("student", "skill", "correct", "order", "encoding")}
    return mf.data.read_answers(options.csv, **columns).with_at_least(options.support + 1)


def parts(log: AnswerLog, seed: int) -> tuple[AnswerLog, AnswerLog, AnswerLog]:
    """Split the students at random: 70 % to train on, 10 % to choose a learning rate, 20 % to test on."""
    if log.n_students < 10:
        raise SystemExit(f"at least 10 students are needed for three parts, got {log.n_students}")
    order = np.random.RandomState(seed).permutation(log.n_students)
    first, second = int(0.7 * log.n_students), int(0.8 * log.n_students)
    return log.select(order[:first]), log.select(order[first:second]), log.select(order[second:])


def network(log: AnswerLog, options: argparse.Namespace) -> mf.models.LSTM:
    """Make the network that both ways of training start from."""
    torch.manual_seed(options.seed)
    return mf.models.LSTM(2 * log.n_skills, options.hidden, log.n_skills)


def sampler(log: AnswerLog, options: argparse.Namespace) -> StudentSampler:
    """Make the sampler of students that both ways of training see."""
    sizes = {"n_support": options.support, "n_answers": options.answers, "meta_batch_size": options.meta_batch_size}
    return StudentSampler(log, **sizes, seed=options.seed, batches=options.iterations)


def train_by_maml(log: AnswerLog, options: argparse.Namespace) -> mf.MAML:
    """Meta-train on the loss of the later answers after inner steps on the first ones, with learned inner rates."""
    rate = options.inner_lr or INITIAL_RATES[options.inner_optimizer]
    form = {"inner_steps": options.inner_steps, "inner_optimizer": options.inner_optimizer, "task_chunk": None}
    maml = mf.MAML(
        network(log, options), inner_lr=lambda parameter: rate, **form, learn_inner_lr=True, loss_fn=answer_loss
    )
    optimizer = torch.optim.Adam(maml.parameters(), lr=options.meta_lr)
    losses = []
    for episodes in track(sampler(log, options), "MAML", options.iterations):
        optimizer.zero_grad()
        out = maml(episodes, per_step=True)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(maml.parameters(), 1.0)
        optimizer.step()
        losses.append(out.query_losses)
    step_losses = torch.stack(losses[-100:]).mean(dim=0)
    print("loss of the later answers after step 0, 1, ...:", " ".join(f"{loss:.4f}" for loss in step_losses.tolist()))
    return maml


def train_ordinarily(log: AnswerLog, options: argparse.Namespace) -> mf.models.LSTM:
    """Train on all answers of the same students, as deep knowledge tracing does."""
    net = network(log, options)
    optimizer = torch.optim.Adam(net.parameters(), lr=options.meta_lr)
    for episodes in track(sampler(log, options), "ordinary training", options.iterations):
        answers = torch.cat([episodes.y_spt, episodes.y_qry[:, :, options.support :]], dim=2)  # [T, 1, L, skills]
        optimizer.zero_grad()
        answer_loss(net(episodes.x_qry.flatten(0, 1)), answers.flatten(0, 1)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return net


def all_students(log: AnswerLog, options: argparse.Namespace) -> mf.Episodes:
    """Return all students of a log as one batch of tasks."""
    return student_episodes(log, range(log.n_students), n_support=options.support, n_answers=options.answers)


def best_rate(net: mf.models.LSTM, episodes: mf.Episodes, steps: int) -> mf.MAML:
    """Return the network with the fine-tuning rate that best predicts these students' later answers."""
    learners = [mf.MAML(net, inner_lr=rate, inner_steps=steps, loss_fn=answer_loss) for rate in RATES]
    return max(learners, key=lambda learner: auc(*predictions(learner, episodes, steps)))


@torch.no_grad()
def predictions(learner: mf.MAML, episodes: mf.Episodes, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and answers (1 right, 0 wrong) of all later answers, student by student, after ``steps`` steps."""
    fast = learner.adapt(episodes.x_spt, episodes.y_spt, inner_steps=steps)
    asked = episodes.y_qry != NO_ANSWER
    return learner.predict(fast, episodes.x_qry)[asked].numpy(), episodes.y_qry[asked].numpy()


def score(learner: mf.MAML, episodes: mf.Episodes) -> Scores:
    """Score the predictions for these students before and after adaptation."""
    students = students_of(episodes.y_qry)
    each = []
    for steps in (0, learner.inner_steps):
        logits, answers = predictions(learner, episodes, steps)
        each += [auc(logits, answers), interval(logits, answers, students)]
    return Scores(*each)


def students_of(y_qry: Tensor) -> np.ndarray:
    """Return the number of the student who gave each of the later answers."""
    return (y_qry != NO_ANSWER).nonzero()[:, 0].numpy()


def auc(scores: np.ndarray, answers: np.ndarray) -> float:
    """Return the share of pairs of a right and a wrong answer in which the right one scores higher; ties count half.

    This is the Mann-Whitney statistic, computed from the ranks of all scores. It is NaN if all answers are the same.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1 on; equal scores share their mean rank
    right = answers == 1
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    if n_right == 0 or n_wrong == 0:
        return float("nan")
    return float((ranks[right].sum() - n_right * (n_right + 1) / 2) / (n_right * n_wrong))


def interval(scores: np.ndarray, answers: np.ndarray, students: np.ndarray, resamples: int = 200) -> float:
    """Return the half-width of the AUC's 95 % interval: 1.96 standard deviations of a bootstrap over students."""
    random = np.random.RandomState(0)
    rows = np.split(np.arange(len(students)), np.flatnonzero(np.diff(students)) + 1)
    drawn = (np.concatenate([rows[i] for i in random.randint(0, len(rows), len(rows))]) for _ in range(resamples))
    return 1.96 * float(np.std([auc(scores[some], answers[some]) for some in drawn], ddof=1))


def print_table(scores: dict[str, Scores], seconds: dict[str, float]) -> None:
    """Print the areas under the ROC curve of both networks, and their training times."""
    print("area under the ROC curve of the later answers of new students, with 95 % intervals over students:")
    print(f"{'':20}{'before':>18}{'after':>18}{'trained for':>14}")
    for name, row in scores.items():
        before = f"{row.before:.4f} ± {row.before_interval:.4f}"
        after = f"{row.after:.4f} ± {row.after_interval:.4f}"
        print(f"{name:20}{before:>18}{after:>18}{seconds[name]:>12.0f} s")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--students", type=int, default=10_000, help="students to simulate (default: 10000)")
    add("--skills", type=int, default=10, help="skills to simulate (default: 10)")
    add("--answers", type=int, default=100, help="answers per student; later ones are left out (default: 100)")
    add("--support", type=int, default=50, help="answers in the support set, the first ones (default: 50)")
    add("--hidden", type=int, default=32, help="size of the LSTM's state (default: 32)")
    add("--iterations", type=int, default=2000, help="meta-iterations (default: 2000)")
    add("--meta-batch-size", type=int, default=16, help="students per iteration (default: 16)")
    add("--meta-lr", type=float, default=3e-3, help="learning rate of Adam, for both networks (default: 0.003)")
    add("--inner-optimizer", choices=INITIAL_RATES, default="sgd", help="MAML's inner optimizer (default: sgd)")
    add("--inner-lr", type=float, help="initial rate of MAML's inner steps (default: 0.3 for sgd, 0.01 for adam)")
    add("--inner-steps", type=int, default=3, help="steps of adaptation, for both networks (default: 3)")
    add("--seed", type=int, default=0)
    add("--csv", type=Path, help="a table of answers, instead of simulated students")
    for column in ("student", "skill", "correct", "order"):
        add(f"--{column}", default=column, help=f"column of the table (default: {column})")
    add("--encoding", default="utf-8-sig", help="encoding of the table (default: utf-8-sig)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
