package gateway

import (
	"embed"
	"io/fs"
	"net/http"
	"strings"
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
	server := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Styles are injected by the page's own script.
		w.Header().Set("Content-Security-Policy", "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'; form-action 'self'")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the page is read with GET", http.StatusMethodNotAllowed)
			return
		}
		if _, err := fs.Stat(files, "index.html"); err != nil && r.URL.Path == "/" {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(http.StatusNotFound)
			w.Write([]byte("This executable was built without its page. Run `go tool mage build` and start bin/specwatch.\n")) //nolint:errcheck // as everywhere
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
