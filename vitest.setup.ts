// What jsdom lacks and Grafana's components ask for when they are loaded.
if (typeof window !== 'undefined') {
  window.matchMedia ??= (query) =>
    ({
      matches: false,
      media: query,
      addEventListener() {},
      removeEventListener() {},
      addListener() {},
      removeListener() {},
    }) as unknown as MediaQueryList;
  const Observer = class {
    observe() {}
    unobserve() {}
    disconnect() {}
  };
  window.ResizeObserver ??= Observer;
  window.IntersectionObserver ??= Observer as unknown as typeof IntersectionObserver;
}
