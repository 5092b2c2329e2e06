"""The 0-1 programme of reassembly: the compositions of greatest additive score under limits on additive costs.

With ``x[k, i]`` = 1 where stage k takes item i, ``y[k, i, j]`` where j follows i, ``e[k, i]`` where the path ends::

    max   sum u[k, i] x[k, i] + sum p[k, i, j] y[k, i, j] + sum t[k, i] e[k, i]
    s.t.  sum_i x[0, i] = 1                                     one block begins
          x[k, i] = e[k, i] + sum_j y[k, i, j]                  it ends or something follows
          x[k + 1, j] = sum_i y[k, i, j]                        what follows came from somewhere
          low <= additive costs <= high                         parameters, MACs, latency, counts of chosen items

Two solvers answer it: ``labels.best_paths``, label setting that gives the m best exactly, and ``highs.solve_milp``, the
programme as written in the hands of HiGHS; ``front.pareto_paths`` gives the whole front. Source: the 0-1 programme is
DeRy's (Yang et al. 2022); the bounds are Lagrangian (Handler and Zang 1980, on constrained shortest paths).
"""

from __future__ import annotations

from reassembly.programme.front import pareto_paths
from reassembly.programme.labels import best_paths, clashing_limits, diverse_paths
from reassembly.programme.problem import UNBOUNDED, Limit, Programme, Solution

__all__ = [
    "UNBOUNDED",
    "Limit",
    "Programme",
    "Solution",
    "best_paths",
    "clashing_limits",
    "diverse_paths",
    "pareto_paths",
]
