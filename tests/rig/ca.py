"""A certificate authority for the tests, made with the openssl command."""

import ssl
import subprocess

_LEAF = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[leaf]
subjectAltName = {alternatives}
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
"""


class Authority:
    """One root key and certificate in `directory`; `cert` is its PEM file."""

    def __init__(self, directory, name="ca"):
        self._directory = directory
        self.cert = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        self._made = 0
        _openssl(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            self._key,
            "-out",
            self.cert,
            "-days",
            "2",
            "-subj",
            "/CN=Test root",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        )

    def server(self, alternatives="IP:127.0.0.1,DNS:localhost", expired=False):
        """An SSLContext of a server with a certificate for `alternatives`."""
        self._made += 1
        stem = self._directory / f"leaf{self._made}"
        config, key, request, cert = (stem.with_suffix(s) for s in (".cnf", ".key", ".csr", ".pem"))
        config.write_text(_LEAF.format(name="test backend", alternatives=alternatives))
        _openssl(
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            key,
            "-out",
            request,
            "-config",
            config,
        )
        if (
            expired
        ):  # x509 -days takes no negative number in every version: a database-less ca does dates
            _sign_expired(self, stem, config, request, cert)
        else:
            _openssl(
                "x509",
                "-req",
                "-in",
                request,
                "-CA",
                self.cert,
                "-CAkey",
                self._key,
                "-CAcreateserial",
                "-days",
                "1",
                "-extfile",
                config,
                "-extensions",
                "leaf",
                "-out",
                cert,
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return context


def _sign_expired(authority, stem, config, request, cert):
    folder = stem.with_suffix(".ca")
    folder.mkdir()
    (folder / "index").write_text("")
    settings = folder / "ca.cnf"
    settings.write_text(
        f"[ca]\ndefault_ca = a\n[a]\ndatabase = {folder}/index\nnew_certs_dir = {folder}\n"
        "default_md = sha256\npolicy = p\nrand_serial = yes\nunique_subject = no\n"
        "[p]\ncommonName = supplied\n"
    )
    _openssl(
        "ca",
        "-batch",
        "-config",
        settings,
        "-cert",
        authority.cert,
        "-keyfile",
        authority._key,
        "-in",
        request,
        "-out",
        cert,
        "-startdate",
        "20200101000000Z",
        "-enddate",
        "20200102000000Z",
        "-extfile",
        config,
        "-extensions",
        "leaf",
    )


def _openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
