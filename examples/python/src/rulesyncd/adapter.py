"""A store with the interface that a service declares itself."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

from .records import CompiledRule, RuleChange, RuleState
from .store import DEFAULT_SOCKET, RuleStore
from .subscription import Subscription


class RuleStoreAdapter:
    """Gives a service *its* records behind *its* interface: derive, and name the types.

    It has no metaclass of its own: a subclass can derive from the service's abstract class, too, or be
    registered as a virtual subclass of it. The four calls start the store if nobody did.

    >>> from abc import ABC, abstractmethod
    >>> class ServiceStore(ABC):
    ...     @abstractmethod
    ...     async def load_compiled(self): ...
    >>> @ServiceStore.register
    ... class HostStore(RuleStoreAdapter):
    ...     change_type = dict
    >>> isinstance(HostStore(), ServiceStore)
    True
    """

    #: Called with the fields as keyword arguments; a function must be wrapped in ``staticmethod``.
    rule_type: ClassVar[Callable[..., Any]] = CompiledRule
    state_type: ClassVar[Callable[..., Any]] = RuleState
    change_type: ClassVar[Callable[..., Any]] = RuleChange

    def __init__(self, socket: str = DEFAULT_SOCKET, **options: Any) -> None:
        """Take the arguments of ``RuleStore``, except for the types."""
        self._store: RuleStore[Any, Any, Any] = RuleStore(
            socket,
            rule_type=self.rule_type,
            state_type=self.state_type,
            change_type=self.change_type,
            **options,
        )

    @property
    def store(self) -> RuleStore[Any, Any, Any]:
        """The store that does the work."""
        return self._store

    async def start(self) -> None:
        """Start the store."""
        await self._store.start()

    async def stop(self) -> None:
        """Stop the store."""
        await self._store.stop()

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def load_compiled(self) -> list[Any]:
        """Return every rule; see ``RuleStore.load_compiled``."""
        await self._store.start()
        return await self._store.load_compiled()

    async def get_state(self, rule_id: str) -> Any:
        """Return the effective state of a rule; see ``RuleStore.get_state``."""
        await self._store.start()
        return await self._store.get_state(rule_id)

    async def set_state(self, rule_id: str, state: Any, set_by: str | None = None) -> None:
        """Set the state of a rule; see ``RuleStore.set_state``."""
        await self._store.start()
        await self._store.set_state(rule_id, state, set_by)

    def subscribe_changes(self) -> Subscription[Any]:
        """Subscribe at this call; see ``RuleStore.subscribe_changes``."""
        self._store.begin()
        return self._store.subscribe_changes()
