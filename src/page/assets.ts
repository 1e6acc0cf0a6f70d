// Where Grafana's icons are served from: under this path, build/img/icons. It
// must be known before any of Grafana's components is loaded.
(window as { __grafana_public_path__?: string }).__grafana_public_path__ = new URL('assets/', document.baseURI).href;
export {};
