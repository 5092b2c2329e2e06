"""Tasks of one kind of work on workers, processes of this machine or of a Ray cluster; what they compute is the
caller's affair.

A work is a picklable function of a task. Every worker gets it once and keeps what it makes for itself (loaded networks,
say) from one task to the next; a task is small, and what is large lies where the work says. A task whose worker is lost
runs again, so that tasks are to be repeatable: the same result, and nothing harmed by having been half done.
"""
