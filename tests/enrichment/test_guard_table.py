"""What the guard says of a sentence offered to a report: a table of cases, written before they were run.

All sentences are made up for these tests. A case is (report, addition, reason): the reason in full, or up to its colon.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from raymedlt.enrichment import guard
from raymedlt.enrichment.writing import report_claims
from raymedlt.reports.sentences import sentence_key, split_sentences


@dataclass(frozen=True)
class Report:
    """The sections that the guard reads."""

    findings: str = ""
    impression: str = ""
    indication: str = ""
    views: tuple[str, ...] = ("PA", "LATERAL")


def verdict(report: Report, addition: str) -> str | None:
    keys = [sentence_key(sentence) for sentence in split_sentences(report.findings)]
    claims = report_claims(keys, report.impression, report.indication, "en", report.views)
    return guard.verdict(addition, claims)


NOTHING_SAID = Report("Heart size is normal.")

DENIES_WHAT_IS_ASSERTED = [
    (Report("Small right pleural effusion."), "No pleural effusion.", "contradicts:pleural_effusion"),
    (Report("There is blunting of the left costophrenic angle."), "No pleural effusion.", "contradicts:"),
    (Report("Possible trace effusion on the left."), "There is no effusion.", "contradicts:pleural_effusion"),
    (Report("A small pneumothorax cannot be excluded."), "No pneumothorax.", "contradicts:pneumothorax"),
    (Report("The cardiac silhouette is enlarged."), "Heart size is normal.", "contradicts:cardiomegaly"),
    (Report("Heart size is at the upper limits of normal."), "Heart size is normal.", "contradicts:"),
    (Report("Borderline heart size."), "The heart is normal in size.", "contradicts:"),
    (Report("Patchy opacity in the lingula."), "The lungs are clear.", "contradicts:"),
    (Report("Calcified granuloma in the right upper lobe."), "The lungs are clear.", "contradicts:"),
    (Report("Streaky opacities at the left base."), "No focal consolidation.", "contradicts:consolidation"),
    (Report("Streaky opacities at the left base, likely scarring."), "No focal opacity.", "contradicts:opacity"),
    (Report("Streaky opacities at the left base, likely scarring."), "The lungs are clear.", "contradicts:"),
    (Report("Right basilar infiltrate."), "No focal consolidation.", "contradicts:consolidation"),
    (Report("Right basilar atelectasis."), "The lungs are clear of consolidation.", "contradicts:consolidation"),
    (Report("Mild interstitial edema."), "Pulmonary vasculature is normal.", "contradicts:"),
    (Report("Old healed fracture of a left rib."), "The bones are intact.", "contradicts:"),
    (Report("Multilevel degenerative change of the spine."), "The osseous structures are normal.", "contradicts:"),
    (Report("The aorta is tortuous."), "The thoracic aorta is normal.", "contradicts:"),
    (Report("Prominent right hilum."), "The hila are normal.", "contradicts:"),
    (Report("The trachea deviates to the right."), "The trachea is midline.", "contradicts:tracheal_deviation"),
    (Report("Elevated right hemidiaphragm."), "The diaphragm is normal.", "contradicts:"),
    (Report("The lungs are hyperinflated."), "The lungs are well expanded.", "contradicts:"),
    (Report("Low lung volumes."), "The lungs are well expanded.", "contradicts:low_lung_volumes"),
    (Report("Free air under the diaphragm."), "No acute cardiopulmonary abnormality.", "contradicts:"),
    (Report("Apical pleural thickening."), "No pleural abnormality.", "contradicts:"),
    (Report("Widened mediastinum."), "The cardiomediastinal silhouette is normal.", "contradicts:"),
    (Report("Emphysematous change."), "The lungs are clear.", "contradicts:"),
    (Report("A mass is seen in the left lung."), "No pulmonary nodule or mass.", "contradicts:"),
]

IMPRESSION_AND_INDICATION = [
    (Report("Heart size is normal.", "Left lower lobe pneumonia."), "The lungs are clear.", "contradicts:"),
    (Report("Heart size is normal.", "Congestive heart failure."), "No pulmonary edema.", "contradicts:"),
    (Report("Lungs are clear.", "Cardiomegaly."), "Heart size is normal.", "contradicts:cardiomegaly"),
    (Report("Heart size is normal.", "No effusion."), "No pleural effusion.", "restates:pleural_effusion"),
    (Report("Heart size is normal.", "", "Known sarcoidosis."), "The lungs are clear.", "contradicts:"),
    (Report("Heart size is normal.", "", "History of pleural effusion."), "No pleural effusion.", "contradicts:"),
    (Report("Heart size is normal.", "", "Rib fracture."), "The ribs are intact.", "contradicts:"),
    (Report("Heart size is normal.", "", "COPD with cough."), "The lungs are well expanded.", "contradicts:"),
    (Report("Heart size is normal.", "", "No known pneumothorax."), "No pneumothorax.", "restates:pneumothorax"),
]

RESTATES = [
    (Report("No pleural effusion."), "There is no pleural effusion.", "restates:pleural_effusion"),
    (Report("No pneumothorax or effusion."), "No pneumothorax.", "restates:pneumothorax"),
    (Report("The lungs are clear."), "No focal consolidation.", "restates:consolidation"),
    (Report("The lungs are clear."), "The lungs are free of focal airspace disease.", "restates:airspace_disease"),
    (Report("Normal heart size."), "Heart size is normal.", "restates:cardiomegaly"),
    (Report("Cardiomediastinal silhouette is normal."), "The mediastinum is normal.", "restates:"),
    (Report("The chest is normal."), "No pleural effusion.", "restates:pleural_effusion"),
    (Report("No acute bony abnormality."), "No fracture.", "restates:fracture"),
    (Report("No left effusion. No right effusion."), "No pleural effusion.", "restates:pleural_effusion"),
]

SIDES = [
    (Report("Left pneumothorax."), "No pneumothorax.", "contradicts:pneumothorax"),
    (Report("Left effusion."), "No right pleural effusion.", "unfit:one_sided"),
    (NOTHING_SAID, "The right lung is clear.", "unfit:one_sided"),
    (Report("Bilateral effusions."), "No pleural effusion.", "contradicts:pleural_effusion"),
]

UNFIT = [
    ("No new infiltrate.", "unfit:"),
    ("No pneumothorax since yesterday.", "unfit:"),
    ("The lungs remain clear.", "unfit:comparison"),
    ("No effusion compared with the prior study.", "unfit:comparison"),
    ("No nodule larger than 5 mm.", "unfit:"),
    ("No effusion on film of 02/03.", "unfit:"),
    ("No displaced fracture of rib seven XXXX.", "unfit:"),
    ("No effusion ___.", "unfit:"),
    ("PA and lateral views show no effusion.", "unfit:"),
    ("No effusion on the lateral view.", "unfit:lateral_view"),
    ("Frontal view shows no pneumothorax.", "unfit:"),
    ("No effusion on this portable film.", "unfit:technique"),
    ("No pneumothorax with the patient upright.", "unfit:"),
    ("The breast shadows are normal.", "unfit:sex"),
    ("Her lungs are clear.", "unfit:sex"),
    ("The bowel gas pattern is normal.", "unfit:other_body_part"),
    ("The shoulders are normal.", "unfit:other_body_part"),
    ("No pacemaker.", "unfit:device"),
    ("The pacemaker leads are intact.", "unfit:"),
    ("No pneumothorax after line placement.", "unfit:"),
    ("The heart is normal for age.", "unfit:patient"),
    ("No pneumonia, correlate clinically.", "unfit:"),
    ("No pneumothorax, Dr. Jones was called.", "unfit:"),
    ("The lungs are otherwise clear.", "unfit:otherwise"),
    ("No effusion is seen, although the evaluation is limited.", "unfit:"),
    ("Is there no effusion?", "unfit:"),
    ("No zorgonic opacity.", "unfit:unknown_word"),
    ("Mild cardiomegaly.", "unfit:says_nothing"),
]

DEVICES = [
    (Report("Pacemaker leads end in the right ventricle."), "The chest is normal.", "contradicts:"),
    (Report("A central line ends in the superior vena cava."), "Normal chest.", "contradicts:"),
    (Report("Right chest port."), "No radiopaque foreign body.", "contradicts:foreign_body"),
    (Report("Median sternotomy wires."), "The bones are intact.", "contradicts:"),
    (Report("Plate and screws in the clavicle."), "The osseous structures are intact.", "contradicts:"),
    (Report("Endotracheal tube in place."), "Normal chest examination.", "contradicts:"),
]

REMOVED_OR_ABSENT = [
    (Report("Status post right pneumonectomy."), "The lungs are clear.", "contradicts:"),
    (Report("Status post right pneumonectomy."), "No pleural abnormality.", "contradicts:"),
    (Report("Heart size is normal.", "", "Prior left pneumonectomy."), "The lungs are well expanded.", "contradicts:"),
    (Report("Prior pneumonectomy on the left."), "The trachea is midline.", "contradicts:"),
    (Report("Left upper lobectomy."), "The lungs are clear.", "contradicts:"),
    (Report("Resection of the distal left clavicle."), "The clavicles are intact.", "contradicts:"),
    (Report("The right clavicle has been resected."), "The osseous structures are intact.", "contradicts:"),
    (Report("Surgical absence of the left fifth rib."), "The ribs are intact.", "contradicts:"),
    (Report("Heart size is normal.", "", "Left mastectomy."), "The soft tissues are unremarkable.", "contradicts:"),
    (Report("The right breast is absent."), "The soft tissues are unremarkable.", "contradicts:"),
    (Report("Agenesis of the left lung."), "The lungs are clear.", "contradicts:"),
    (Report("Esophagectomy with gastric pull through."), "The mediastinum is normal.", "contradicts:"),
    (Report("Vertebroplasty of a thoracic body."), "The thoracic spine is normal.", "contradicts:"),
]

VIEWS = [
    (Report("Lungs are clear.", views=("AP",)), "The retrosternal space is clear.", "view:lateral"),
    (Report("Heart size is normal.", views=("AP",)), "The posterior costophrenic sulci are clear.", "view:lateral"),
    (Report("Heart size is normal.", views=("PORTABLE AP",)), "The vertebral body heights are normal.", "view:lateral"),
    (Report("Bony thorax normal.", views=("LATERAL",)), "The trachea is midline.", "view:frontal"),
    (Report("Bony thorax normal.", views=("LL",)), "The lungs are clear bilaterally.", "view:frontal"),
    (Report("Bony thorax normal.", views=("LATERAL",)), "Both lungs are clear.", "view:frontal"),
]

UNREAD = [
    (Report("The heart is zorgonic."), "Heart size is normal.", "unread:"),
    (Report("Zorgonic configuration of the hila."), "The hila are normal.", "unread:"),
    (Report("There is a zorgon."), "The lungs are clear.", "unread:"),
    (Report("The heart is zorgonic, the lungs are clear."), "The heart is normal.", "unread:"),
    (Report("The cardiac silhouette is not well seen."), "Heart size is normal.", "unread:"),
    (Report("No interval change."), "Heart size is normal.", "unread:"),
    (Report("Unchanged exam."), "The lungs are clear.", "unread:"),
    (Report("Abnormal appearance, cause unclear."), "The lungs are clear.", "contradicts:"),
    (Report("No effusion on the right, moderate on the left."), "No pleural effusion.", "unread:pleural_effusion"),
    (Report("No pneumothorax is seen on the left."), "No pneumothorax.", "unread:pneumothorax"),
    (Report("Small right pneumothorax after chest tube removal."), "No pneumothorax.", "contradicts:pneumothorax"),
    (
        Report("Endotracheal tube in standard position. No significant interval change."),
        "The lungs are clear.",
        "unread:",
    ),
    (Report("There is little overall change."), "The lungs are clear.", "unread:"),
    (Report("Again seen is XXXX in the right lung."), "The lungs are clear.", "unread:"),
    (Report("The lungs are unchanged."), "The lungs are clear.", "unread:"),
    (Report("Interval improvement in the right lung."), "The lungs are clear.", "unread:"),
    (Report("A lesion is seen in the left lung."), "The lungs are clear.", "contradicts:"),
    (Report("Deep sulcus sign on the left."), "No pneumothorax.", "contradicts:pneumothorax"),
    (Report("Opacification of the left hemithorax."), "No pleural effusion.", "contradicts:pleural_effusion"),
    (Report("Fluid overload."), "No pulmonary edema.", "contradicts:pulmonary_edema"),
    (Report("Heart size is normal."), "Small effusion but no pneumothorax.", "unfit:mixed_sentence"),
    (Report("The osseous structures XXXX."), "The osseous structures are intact.", "unread:"),
]

REFUSED = [
    *DENIES_WHAT_IS_ASSERTED,
    *IMPRESSION_AND_INDICATION,
    *RESTATES,
    *SIDES,
    *[(NOTHING_SAID, addition, reason) for addition, reason in UNFIT],
    *DEVICES,
    *REMOVED_OR_ABSENT,
    *VIEWS,
    *UNREAD,
]

PASSES = [
    (Report("Heart size is normal."), "No pleural effusion."),
    (Report("Heart size is normal."), "The lungs are clear."),
    (Report("Heart size is normal."), "No acute bony abnormality."),
    (Report("Cardiomegaly."), "No pneumothorax."),
    (Report("Cardiomegaly."), "No pleural effusion or pneumothorax."),
    (Report("Left rib fracture."), "No pneumothorax."),
    (Report("Left rib fracture."), "Heart size is normal."),
    (Report("Right lower lobe pneumonia."), "Heart size is normal."),
    (Report("Right lower lobe pneumonia."), "No pneumothorax."),
    (Report("Small left pleural effusion."), "Heart size is normal."),
    (Report("Small left pleural effusion."), "The osseous structures are intact."),
    (Report("No pleural effusion."), "No pneumothorax."),
    (Report("No pneumonia."), "No pneumothorax."),
    (Report("Tortuous aorta."), "No pneumothorax."),
    (Report("Tortuous aorta."), "The lungs are clear."),
    (Report("Heart size is normal.", "", "Evaluate for pneumonia."), "The lungs are clear."),
    (Report("Heart size is normal.", "", "Chest pain and cough."), "No focal consolidation."),
    (Report("Heart size is normal.", "", "Question of pneumothorax."), "No pneumothorax."),
    (Report("Heart size is normal.", "No acute disease.", "Fever."), "The trachea is midline."),
    (Report("Pacemaker leads end in the right ventricle."), "No pneumothorax."),
    (Report("Pacemaker leads end in the right ventricle."), "The lungs are clear."),
    (Report("Central line ends in the superior vena cava."), "Heart size is normal."),
    (Report("Endotracheal tube in place."), "No pleural effusion."),
    (Report("Median sternotomy wires."), "The lungs are clear."),
    (Report("Status post right pneumonectomy."), "The osseous structures are intact."),
    (Report("Resection of the distal left clavicle."), "No pleural effusion."),
    (Report("Heart size is normal.", "", "Left mastectomy."), "The lungs are clear."),
    (Report("Heart size is normal.", views=("AP",)), "No pneumothorax."),
    (Report("Heart size is normal.", views=("AP",)), "The trachea is midline."),
    (Report("Heart size is normal.", views=("LATERAL",)), "No pleural effusion."),
    (Report("Heart size is normal.", views=()), "The lungs are clear bilaterally."),
    (Report("Degenerative change of the spine."), "The mediastinum is normal."),
    (Report("Comparison is made to a prior chest radiograph."), "The lungs are clear."),
    (Report("PA and lateral views of the chest were obtained."), "No pleural effusion."),
    (Report("The heart is zorgonic."), "No pleural effusion."),
    (Report("There is a zorgon."), "No pneumothorax."),
    (Report("Recommend follow up chest CT."), "The lungs are clear."),
    (Report("Unchanged heart size."), "No pleural effusion."),
    (Report("Stable cardiomediastinal silhouette."), "The mediastinum is normal."),  # abnormal ones are called so
    (Report("Right basilar atelectasis."), "No focal consolidation."),
    (Report("Small left pleural effusion."), "No pneumothorax."),
    (Report("Streaky opacities at the left base, likely scarring."), "No focal consolidation."),  # a scar explains them
    (Report("Abnormal appearance, cause unclear."), "The cardiac silhouette is normal."),  # hearts have named diseases
    (Report("Heart size is normal.", "", "Known asthma."), "The lungs are clear."),
    (Report("Small effusion. No interval change."), "No pneumothorax."),
    (Report("The findings were discussed with the zorgon team."), "The lungs are clear."),
]


@pytest.mark.parametrize(("report", "addition", "reason"), REFUSED)
def test_refused(report: Report, addition: str, reason: str):
    found = verdict(report, addition)
    assert found is not None
    assert found.startswith(reason) if reason.endswith(":") else found == reason


@pytest.mark.parametrize(("report", "addition"), PASSES)
def test_passes(report: Report, addition: str):
    assert verdict(report, addition) is None


def test_the_table_is_large_enough():
    assert len(REFUSED) >= 60
    assert len(PASSES) >= 30


@pytest.mark.parametrize(("addition", "reason"), UNFIT)
def test_what_is_unfit_is_unfit_for_an_empty_report(addition: str, reason: str):
    assert str(verdict(Report(), addition)).startswith(reason)
