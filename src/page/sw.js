// Phones show notifications, and install pages, only with a service worker. It has
// no cache: events always come from the gateway.
self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('notificationclick', (event) => {
  event.notification.close();
  event.waitUntil(
    self.clients
      .matchAll({ type: 'window' })
      .then((pages) => (pages.length > 0 ? pages[0].focus() : self.clients.openWindow('./')))
  );
});
