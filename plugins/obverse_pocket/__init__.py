"""The bundled pocket codecs: small networks with weights that ship in the package."""
