"""What is called where torch is too old to have it; the whole package in such an environment: docs/compat.md."""

import torch

from cmp.torch_versions import is_exporting, never_compile


def test_torch_without_a_compiler_exports_nothing_and_leaves_functions_as_they_are(monkeypatch):
    monkeypatch.delattr(torch, "compiler")
    assert is_exporting() is False and never_compile(len) is len


def test_a_compiler_that_cannot_tell_is_not_exporting(monkeypatch):
    monkeypatch.delattr(torch.compiler, "is_exporting")
    assert is_exporting() is False


def test_the_answer_of_torch_is_passed_on(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    monkeypatch.setattr(torch.compiler, "disable", lambda function: (function, "disabled"))
    assert is_exporting() is True and never_compile(len) == (len, "disabled")
