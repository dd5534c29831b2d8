"""One repository for each kind of record, all with the same verbs."""

from .agents import AgentRepository
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
    "ConversationRepository",
    "EmbeddedRepository",
    "MemoryRepository",
    "MessageRepository",
    "Repository",
    "TaskRepository",
    "ToolCallRepository",
    "UserRepository",
]
