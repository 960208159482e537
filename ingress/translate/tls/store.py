"""Key pairs by Secret: each Secret object is taken apart once, however many Ingresses name it and however often they are compiled."""

from collections.abc import Callable
from dataclasses import dataclass

from ingress.model import KubernetesObject, ObjectRef, Secret
from ingress.translate.report import shown
from ingress.translate.tls.inspect import KeyPair, Unusable, inspect_secret


@dataclass(frozen=True, slots=True)
class Lookup:
    """`pair` None: there is none. `why`: what is wrong with the Secret as it is now, as a clause; may be set beside a `pair`, which is then
    the last that was good. `missing`: there is no such Secret."""

    pair: KeyPair | None
    why: str = ""
    missing: bool = False


class CertificateStore:
    """A Secret that was good and is replaced by one that is not keeps its last good certificate, as in ingress-nginx, until it is deleted,
    nobody refers to it any more or the controller starts anew."""

    def __init__(self) -> None:
        self._seen: dict[ObjectRef, tuple[Secret, Lookup]] = {}

    def find(self, ref: ObjectRef, objects: Callable[[ObjectRef], KubernetesObject | None]) -> Lookup:
        secret = objects(ref)
        known = self._seen.get(ref)
        if not isinstance(secret, Secret):
            self._seen.pop(ref, None)
            return Lookup(
                None, f"there is no Secret {shown(ref.name)} in namespace {shown(ref.namespace)}", missing=True
            )
        if known is not None and known[0] is secret:
            return known[1]
        try:
            found = Lookup(inspect_secret(secret))
        except Unusable as e:
            found = Lookup(known[1].pair if known is not None else None, f"{e.key}: {e.why}")
        except Exception as e:  # a fault of ours, or of a library, costs this Secret only
            found = Lookup(None, f"reading it failed ({type(e).__name__}): this is a bug of the controller")
        self._seen[ref] = secret, found
        return found

    def forget(self, ref: ObjectRef) -> None:
        """Nobody refers to it any more."""
        self._seen.pop(ref, None)
