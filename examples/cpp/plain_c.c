/* The header is C11, and links as C: what an attachment to nobody says. */

#include <synchromesh.h>

#include <stdio.h>
#include <string.h>

int main(void) {
    sm_attachment *attachment = NULL;
    const sm_status status = sm_attach("/nonexistent/attach.sock", NULL, NULL, &attachment);
    printf("library %s: %s\n", sm_version(), sm_last_error());
    sm_detach(attachment);
    const int as_expected = status == SM_STATUS_UNAVAILABLE && attachment == NULL &&
                            strstr(sm_last_error(), "is the daemon running?") != NULL;
    return as_expected ? 0 : 1;
}
