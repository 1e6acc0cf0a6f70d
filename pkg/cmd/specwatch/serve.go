package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	envReadToken  = "SPECWATCH_READ_TOKEN" // #nosec G101 -- the name of a variable
	envWriteToken = "SPECWATCH_WRITE_TOKEN"
)

// serverConns is the size of a gateway's connection pool.
const serverConns = 8

// closeTimeout bounds closing the connections when the gateway stops.
const closeTimeout = 500 * time.Millisecond

func newServe(db *database) *cobra.Command {
	var listen, certFile, keyFile, profiles string
	var options gateway.Options
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the page, the HTTP API, the WebSocket and metrics",
		Long: `Serves the page at /, polling at /api/status, live events at /ws, writing at
/api/events, metrics at /metrics, health at /healthz and /readyz.

` + envReadToken + ` and ` + envWriteToken + ` protect reading and writing. Without
them the gateway only listens on addresses of this machine. Create each with:
openssl rand -hex 32

Requests must name the gateway by an IP address, by localhost, or by a host name of
--listen, --allow-host or --allow-origin. Other names are refused, to protect
against DNS rebinding.`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			config, err := db.config()
			if err != nil {
				return err
			}
			options, err := serverOptions(options).Check(listen)
			if err != nil {
				return wrongUse{err}
			}
			scheme := "http"
			if certFile != "" || keyFile != "" {
				if certFile == "" || keyFile == "" {
					return wrongUsef("TLS needs both --tls-cert and --tls-key")
				}
				if options.TLS, err = gateway.TLS(certFile, keyFile, options.Log); err != nil {
					return wrongUse{err}
				}
				scheme = "https"
			}
			ctx, cancel := untilSignal(cmd.Context())
			defer cancel()
			if profiles != "" {
				l, err := listenProfiles(profiles)
				if err != nil {
					return err
				}
				var serving sync.WaitGroup
				defer serving.Wait()
				defer cancel()
				serving.Go(func() {
					if err := serveProfiles(ctx, l); err != nil {
						options.Log.Warn("profiles are not served any more", "error", err)
					}
				})
			}
			at, err := net.Listen("tcp", listen)
			if err != nil {
				return fmt.Errorf("cannot listen on %s: %w; choose another address with --listen", listen, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s://%s%s\n", scheme, at.Addr(), strings.TrimSuffix(options.BasePath+"/", "/"))
			return serve(ctx, config, at, options)
		}),
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8001", "`address` to serve, host:port")
	cmd.Flags().StringSliceVar(&options.Origins, "allow-origin", nil, "`origin` of another site whose pages may use this gateway, such as https://grafana.example; may be repeated")
	cmd.Flags().StringSliceVar(&options.Hosts, "allow-host", nil, "host `name` by which clients reach this gateway, such as watch.example; may be repeated")
	cmd.Flags().StringVar(&options.BasePath, "base-path", "/", "`path` below which a proxy serves this gateway, such as /watch/, whether or not the proxy strips it")
	cmd.Flags().StringVar(&certFile, "tls-cert", "", "PEM `file` with the certificate chain, to serve HTTPS; read again when it changes")
	cmd.Flags().StringVar(&keyFile, "tls-key", "", "PEM `file` with the private key")
	cmd.Flags().StringVar(&profiles, "pprof", "", "`address` on loopback, such as 127.0.0.1:6060, for Go's profiles below /debug/pprof/ (default: none are served)")
	return cmd
}

// serverOptions adds the options from the environment.
func serverOptions(options gateway.Options) gateway.Options {
	options.ReadToken, options.WriteToken = variable(envReadToken), variable(envWriteToken)
	options.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return options
}

// serve runs a gateway on the listener until ctx ends. If the database is away, or
// has no schema yet, it waits and logs the reason.
func serve(ctx context.Context, config store.Config, at net.Listener, options gateway.Options) error {
	config.MaxConns = serverConns
	st, err := store.Open(ctx, config)
	if err != nil {
		at.Close()
		return wrongUse{err}
	}
	defer func() {
		closed := make(chan struct{})
		go func() { st.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(closeTimeout): // do not wait for a database that hangs
		}
	}()
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() {
		if err := st.Ready(ctx); err != nil && !errors.Is(err, context.Canceled) {
			options.Log.Warn("events cannot be read yet", "reason", strings.TrimSpace(err.Error()))
		}
		if st.Pooled() {
			options.Log.Warn(store.PoolerNote)
		}
	})
	return gateway.New(st, options).Serve(ctx, at)
}
