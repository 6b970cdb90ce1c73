def read(path, output, reporter=None):
    raise NotImplementedError


def open_remote(name, folder, reporter=None):
    raise NotImplementedError


def write(store, output, reporter=None):
    raise NotImplementedError
