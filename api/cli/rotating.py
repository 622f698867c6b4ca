"""`wenming key rotate-master`: a new master key wraps every key, while servers run."""

from api.cli.given import Database, Keys
from api.cli.shown import complain, say
from api.settings import read_settings
from ledger import rotation


def rotate_master(database: Database = None, keys: Keys = None) -> None:
    """Wrap every person's key by a new master key. Servers may run; after a crash, do it again.

    The old master key is put aside in a file of its own: backups of the key store made before now need it.
    """
    settings = read_settings(database=database, keys=keys)
    aside = rotation.rotate(settings.keys, settings.master_key, busy_seconds=settings.busy_seconds)
    say(f"master key  {settings.master_key}  (new: keep a copy where the backups are not)")
    say(f"old key     {aside}")
    complain(
        "请立即备份密钥库，然后删除旧主密钥文件：此前的备份只能用它打开。",
        "Back the key store up now, then delete the old key's file: only earlier backups need it.",
    )
