package gateway

import (
	"cmp"
	"embed"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/specwatch/specwatch/pkg/api"
)

// The page is built by `npm run build` and carried inside the executable. A
// plain checkout holds none, and the gateway still builds.
//
//go:embed all:page
var built embed.FS

func page() http.Handler {
	files, err := fs.Sub(built, "page")
	if err != nil {
		panic(err) // the path is the one above
	}
	const index = "index.html"
	server := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Styles are injected by the page's own script.
		w.Header().Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'; form-action 'self'")
		// FileServerFS would answer these errors in plain text.
		name := cmp.Or(strings.Trim(path.Clean("/"+r.URL.Path), "/"), index)
		_, err := fs.Stat(files, name)
		switch {
		case err != nil && name != index:
			refuse(w, api.Problem{Status: http.StatusNotFound, Title: "not found", Detail: "there is no such path; see GET /, GET /api/status, POST /api/events and GET /ws"})
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			refuseMethod(w, r, "GET, HEAD")
			return
		case err != nil:
			refuse(w, api.Problem{Status: http.StatusNotFound, Title: "not built", Detail: "this executable was built without its page; run `go tool mage build` and start bin/specwatch"})
			return
		}
		if strings.HasPrefix(r.URL.Path, "/assets/") {
			// Their names carry a hash of their content.
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			w.Header().Set("Cache-Control", "no-cache")
		}
		server.ServeHTTP(w, r)
	})
}
