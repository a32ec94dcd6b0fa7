//! The only maker of `ValidRequest`: checks of TGI's contract, in its order and with its texts.
