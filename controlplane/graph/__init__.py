"""Incremental typed collections: the contract of Istio's ``pkg/kube/krt``. Knows no kind of object and no message.

``Source``
    values that are set from outside, such as the objects of an informer.
``Index``, ``SelectorIndex``, ``Claims``
    declared ways to look values up: by a key of theirs, by the labels that their selectors match, by who was first.
``Derived``
    ``transform(item, fetch)`` for each item of another collection. The transform is pure; every read goes through
    ``fetch`` and is recorded. An event recomputes exactly the values whose recorded reads it can have changed.
``Graph``
    the scheduler: computes what is queued, stage by stage, in slices.

No dependency is written down twice: what a value depends on is what its transform has read.
"""
