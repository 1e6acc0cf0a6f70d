package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	envReadToken  = "SPECWATCH_READ_TOKEN"
	envWriteToken = "SPECWATCH_WRITE_TOKEN"
)

// serverConns is the pool of a gateway: enough for pollers and writers, and
// far from a server's limit.
const serverConns = 8

func newServe(db *database) *cobra.Command {
	var listen string
	var origins []string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the page, polling, the WebSocket, writing and metrics",
		Long: `Serves the page at /, polling at /api/status, live events at /ws, writing at
/api/events, metrics at /metrics, health at /healthz and /readyz.

` + envReadToken + ` and ` + envWriteToken + ` protect reading and writing; without
them only addresses of this machine can be served.`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			config, err := db.config()
			if err != nil {
				return err
			}
			if err := gateway.CheckAddress(listen, serverOptions(origins)); err != nil {
				return wrongUse{err}
			}
			at, err := net.Listen("tcp", listen)
			if err != nil {
				return fmt.Errorf("cannot listen on %s: %w; choose another address with --listen", listen, err)
			}
			ctx, cancel := untilSignal(cmd.Context())
			defer cancel()
			fmt.Fprintf(cmd.OutOrStdout(), "http://%s\n", at.Addr())
			return serve(ctx, config, at, origins...)
		}),
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8001", "`address` to serve, host:port")
	cmd.Flags().StringSliceVar(&origins, "allow-origin", nil, "another `origin` whose pages may use this gateway, such as https://grafana.example; may be repeated")
	return cmd
}

func serverOptions(origins []string) gateway.Options {
	return gateway.Options{
		ReadToken: os.Getenv(envReadToken), WriteToken: os.Getenv(envWriteToken), Origins: origins,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}

// serve runs a gateway on the listener until ctx ends. A database that is
// away, or has no schema yet, is waited for: the log says so.
func serve(ctx context.Context, config store.Config, at net.Listener, origins ...string) error {
	config.MaxConns = serverConns
	st, err := store.Open(ctx, config)
	if err != nil {
		at.Close()
		return wrongUse{err}
	}
	defer st.Close()
	options := serverOptions(origins)
	if err := st.Ready(ctx); err != nil && !errors.Is(err, context.Canceled) {
		options.Log.Warn("events cannot be read yet", "reason", strings.TrimSpace(err.Error()))
	}
	return gateway.New(st, options).Serve(ctx, at)
}
