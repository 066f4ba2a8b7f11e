"""TensorFlow, in whose graphs examples are read and views are made: late, quiet and on the host."""

import os
import sys
import tempfile
from contextlib import suppress
from functools import cache


@cache
def tensorflow():
    """TensorFlow, imported late (it takes seconds) and quietly, kept off the accelerators."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow

            with suppress(RuntimeError):  # somebody uses TensorFlow already: too late to hide them
                tensorflow.config.set_visible_devices([], 'GPU')
            tensorflow.constant(0)  # its first operation speaks too
            tensorflow.get_logger().setLevel('ERROR')
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    return tensorflow
