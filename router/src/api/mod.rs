//! HTTP routes: the only place with wire types of TGI and OpenAI. Called by `main`.
