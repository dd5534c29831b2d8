"""Repositories: one for each kind of record, all with the same verbs.

Imports `sessions` and below.
"""

from .agents import AgentRepository
from .append import AppendRepository
from .base import Repository
from .conversations import ConversationRepository
from .embedded import EmbeddedRepository
from .memories import MemoryRepository
from .messages import MessageRepository
from .tasks import TaskRepository
from .tool_calls import ToolCallRepository
from .users import UserRepository

__all__ = [
    "AgentRepository",
    "AppendRepository",
    "ConversationRepository",
    "EmbeddedRepository",
    "MemoryRepository",
    "MessageRepository",
    "Repository",
    "TaskRepository",
    "ToolCallRepository",
    "UserRepository",
]
